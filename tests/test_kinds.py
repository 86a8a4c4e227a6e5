"""What a failure is like: the kind that each failed law has."""

from __future__ import annotations

import pytest
import torch

from mhc_ref import PAPER
from properties.core.implementation import Reference
from properties.core.judging import Judge
from properties.core.kinds import kind_of
from properties.core.law import all_laws
from properties.core.trial import LawBroken
from properties.engine.runner import Profile, Subject
from properties.engine.search import Search
from properties.targets.process.protocol import BadAnswer, NoAnswer, ProcessDied, TooMuchMemory

LAWS = all_laws()


class Faulty(Reference):
    """The reference, with one fault in its projection."""

    dtypes = (torch.float32,)

    def __init__(self, fault) -> None:
        super().__init__(PAPER)
        self.fault = fault
        self.calls = 0
        self.kept = torch.empty(0)

    def project(self, logits):
        self.calls += 1
        return self.fault(self, logits, super().project(logits))


def nan(self, logits, found):
    return torch.where(logits.amax((-1, -2), keepdim=True) > 1, torch.nan, found)


def written(self, logits, found):
    logits.add_(1)
    return found


def reused(self, logits, found):
    if self.kept.shape != found.shape:
        self.kept = torch.empty_like(found)
    return self.kept.copy_(found.detach())


def random(self, logits, found):
    return found * (1 + 1e-7 * (self.calls % 5))


def raising(error):
    def fault(self, logits, found):
        raise error

    return fault


def sometimes(self, logits, found):
    return found * 1.5 if self.calls == 1 else found


ORACLE = "manifold.agrees-with-oracle"
FAULTS = {
    "value": (ORACLE, lambda self, logits, found: found * 1.5),
    "nan": (ORACLE, nan),
    "exception": (ORACLE, raising(ValueError("no"))),
    "contract": (ORACLE, lambda self, logits, found: found[..., :1]),
    "contract, a dtype": (ORACLE, lambda self, logits, found: found.half()),
    "contract, of processes": (ORACLE, raising(BadAnswer("what?"))),
    "memory, an argument": ("execution.projection-leaves-its-input-alone", written),
    "memory, an output": ("execution.projections-outlive-the-next-call", reused),
    "memory, of a machine": (ORACLE, raising(TooMuchMemory("4 GiB"))),
    "time": (ORACLE, raising(NoAnswer("20 s"))),
    "time, a process": (ORACLE, raising(ProcessDied("SIGSEGV"))),
    "randomness, declared otherwise": ("execution.projection-is-deterministic", random),
    "randomness": (ORACLE, sometimes),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_failure_has_a_kind(name, tmp_path):
    law, fault = FAULTS[name]
    found: list[LawBroken] = []

    class Kept(Search):
        def failed(self, broken, executed="", quick=False):
            found.append(broken)
            return super().failed(broken, executed, quick)

    subject = Subject("faulty", Faulty(fault), torch.float32, torch.device("cpu"))
    search = Kept(LAWS[law], subject, Profile(4, derandomise=True, shrink=False), tmp_path / "found.safetensors")
    assert search.verdict().status == "failed"
    assert kind_of(found[0], LAWS[law]) == name.partition(",")[0]


def test_a_nan_where_none_is_claimed_is_not_what_broke_a_law():
    judge = Judge()
    got, bound = torch.tensor([torch.nan, 2.0]), torch.tensor([torch.inf, 0.5])
    with pytest.raises(LawBroken) as broken:
        judge.within("numbers", got, torch.ones(2), bound)
    assert broken.value.kind == "value"
