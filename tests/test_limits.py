"""An undeclared limit is found out, with the attribute that declares it, and the rest is explained within it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import PAPER as TWENTY
from mhc_ref import Branch, Mappings, Params
from properties import Implementation
from properties.catalogue.deviations import CATALOGUE
from properties.causes.limited import limit_of, limits_at
from properties.core.declaration import TABLE, Declaration
from properties.core.law import Law, all_laws
from properties.diagnosis.diagnose import NoVerdict, identify
from properties.diagnosis.limits import Limit, limits_of, narrowed
from properties.diagnosis.parts import Account, of_identification
from properties.diagnosis.probing import Probing
from properties.diagnosis.probing import probed as probed_limits
from properties.diagnosis.view import Frame, View
from properties.engine.runner import Profile, Subject
from properties.engine.search import Search
from properties.targets.process.protocol import NoAnswer, ProcessDied

PAPER = TWENTY.with_(iterations=2)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Parts(Implementation):
    """The paper's, in parts; `check` looks at the first argument of every call, and may raise."""

    dialect = PAPER
    streams = (2, 3, 4)
    dtypes = (torch.float32, torch.bfloat16)
    calls = 0

    def check(self, x: Tensor) -> None:
        """Refuse nothing."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        self.calls += 1
        self.check(x)
        return mhc_ref.mappings(x, params, PAPER)

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        self.calls += 1
        self.check(x)
        return mhc_ref.pre(x, h_pre)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        self.calls += 1
        self.check(x)
        return mhc_ref.post(x, y, h_post, h_res, PAPER)


class Block(Implementation):
    """The paper's block alone."""

    dialect = PAPER
    streams = (2, 3, 4)
    dtypes = (torch.float32, torch.bfloat16)

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        self.check(x, params)
        return mhc_ref.block(x, params, self.given(branch), PAPER)

    def check(self, x: Tensor, params: Params) -> None:
        """Refuse nothing."""

    def given(self, branch: Branch) -> Branch:
        return branch


class ThreeStreams(Parts):
    def check(self, x):
        if x.shape[-2] == 3:
            raise ValueError("3 streams")


class PowersOfTwo(Parts):
    streams = (1, 2, 3, 4, 5, 8, 16)

    def check(self, x):
        if x.shape[-2].bit_count() != 1:
            raise ValueError("streams")


class Float32Only(Parts):
    dtypes = (torch.float64, torch.float32, torch.bfloat16)

    def check(self, x):
        if x.dtype != torch.float32:
            raise TypeError("float32")


class NoFloat64(Block):
    dtypes = (torch.float64, torch.float32)

    def check(self, x, params):
        if x.dtype == torch.float64:
            raise TypeError("float32")


class NoWeight(Block):
    def check(self, x, params):
        if params.norm_weight is not None:
            raise NotImplementedError("norm weight")


class SomeToken(Parts):
    def check(self, x):
        if not x.numel():
            raise IndexError("no token")


class NoTokenOfAnotherShape(Block):
    def block(self, x, params, branch):
        return super().block(x, params, branch) if x.numel() else torch.empty(0)


class NoTokenInAnotherDtype(Block):
    dtypes = (torch.bfloat16,)

    def block(self, x, params, branch):
        return super().block(x, params, branch) if x.numel() else x.float()


class Contiguous(Parts):
    def check(self, x):
        if not x.is_contiguous():
            raise RuntimeError("view size is not compatible")


class ContiguousParameters(Block):
    def check(self, x, params):
        params.bias.view(torch.int32).reshape(-1)
        if not params.phi.is_contiguous():
            raise RuntimeError("phi")


class ContiguousBranch(Block):
    def given(self, branch):
        def call(u):
            y = branch(u)
            if not y.is_contiguous():
                raise RuntimeError("branch")
            return y

        return call


class Vectorised(Parts):
    multiple = 8

    def check(self, x):
        if x.shape[-1] % self.multiple:
            raise ValueError("channels")


class Wide(Vectorised):
    multiple = 64


class WideMultiple(Vectorised):
    """Declared in part."""

    multiple, channel_multiple = 32, 4


class Few(Parts):
    most = 64

    def check(self, x):
        if x.shape[:-2].numel() > self.most:
            raise ValueError("tokens")


class OneToken(Few):
    most = 4


class ForwardOnly(Block):
    def check(self, x, params):
        if x.requires_grad:
            raise RuntimeError("forward only")


class _NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):  # pyright: ignore[reportIncompatibleMethodOverride]
        raise NotImplementedError("backward")


class NoBackward(Parts):
    def pre(self, x, h_pre):
        return _NoBackward.apply(super().pre(x, h_pre))


class NoResidual(Parts):
    def mappings(self, x, params):
        return super().mappings(x, params)._replace(res=None)


class NotTiny(Block):
    def check(self, x, params):
        if x.numel() and x.float().square().mean() < 1e-9:
            raise ZeroDivisionError("norm")


class ProjectsFloat32(Implementation):
    dialect = PAPER
    dtypes = (torch.float64, torch.float32)

    def project(self, logits):
        if logits.dtype != torch.float32:
            raise TypeError("float32")
        return mhc_ref.project(logits, PAPER)


class ProjectsViews(Implementation):
    dialect = PAPER

    def project(self, logits):
        return mhc_ref.project(logits.view(len(logits), logits.shape[-1] ** 2).view(logits.shape), PAPER)


LIMITS = {
    ThreeStreams: {"streams = (2, 4)"},
    PowersOfTwo: {"streams = (1, 2, 4, 8, 16)"},
    Float32Only: {"dtypes = (torch.float32,)"},
    NoFloat64: {"dtypes = (torch.float32,)"},
    NoWeight: {"norm_weight = False"},
    SomeToken: {"zero_tokens = False"},
    NoTokenOfAnotherShape: {"zero_tokens = False"},
    NoTokenInAnotherDtype: {"zero_tokens = False"},
    Contiguous: {"strided = False"},
    ContiguousParameters: {"strided = False"},
    ContiguousBranch: {"strided = False"},
    ProjectsViews: {"strided = False"},
    Vectorised: {"channel_multiple = 8"},
    Wide: {"channel_multiple = 64"},
    WideMultiple: {"channel_multiple = 32"},
    Few: {"max_tokens = 64"},
    OneToken: {"max_tokens = 4"},
    ForwardOnly: {"differentiable = False"},
    NoBackward: {"differentiable = False"},
    NoResidual: {"emits = ('pre', 'post')"},
    NotTiny: {"least_scale = 0.0001"},
    ProjectsFloat32: {"dtypes = (torch.float32,)"},
    Parts: set(),
    Block: set(),
}


def probed(target: Implementation) -> tuple[tuple[Limit, ...], Frame]:
    frame = Frame.of(target)
    met = Probing(View(target, frame), frame).met()
    return limits_of(met, Declaration.of(target)), narrowed(frame, met)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LIMITS, ids=lambda kind: kind.__name__)
def test_a_limit_is_the_attribute_that_declares_it(kind):
    limits, frame = probed(kind())
    assert {one.declare for one in limits} == LIMITS[kind]
    for one in limits:
        assert one.words.startswith("`")
        assert bool(one.place) == bool(one.error)
    assert Probing(View(kind(), frame), frame).met() == [], "the narrower frame meets it as well"


class Transposed(Contiguous):
    def post(self, x, y, h_post, h_res):
        return super().post(x, y, h_post, h_res.mT)


@pytest.mark.slow
def test_a_slip_beside_a_limit_is_explained_and_the_limit_is_named():
    found = identify(Transposed(), hidden=0, brief=True)
    account = of_identification(found, PAPER)
    assert [one.key for one in account.parts] == ["deviation h-res-transposed"]
    assert {one.declare for one in account.limits} == {"strided = False"}
    assert {one.error for one in account.limits} == {"RuntimeError"}
    assert {one.place.partition(":")[0] for one in account.limits} == {"test_limits.py"}
    assert account.unexplained == ()
    told = found.to_text()
    assert f"`mappings` raises RuntimeError for inputs that are not contiguous ({account.limits[0].place})" in told
    assert "if that is meant, declare `strided = False`" in told


class Beside(Parts):
    """Transposed, and every pre raises; the projection is right."""

    def pre(self, x, h_pre):
        raise KeyError("no kernel")

    def post(self, x, y, h_post, h_res):
        return super().post(x, y, h_post, h_res.mT)


@pytest.mark.slow
def test_a_method_that_always_raises_is_no_limit_and_the_rest_is_explained():
    found = identify(Beside(), hidden=0, brief=True)
    assert found.limits == ()
    assert found.differs == {"transposed": (False, True)}
    (raised,) = found.raised
    assert (raised.attribute, raised.error) == ("", "KeyError")
    assert raised.place in found.to_text()
    assert "at 15 more of the questions" in raised.words
    account = of_identification(found, PAPER)
    assert [one.key for one in account.parts] == ["deviation h-res-transposed"]
    assert account.limits == ()


class Grid(Block):
    """As `deviation:zero-tokens-crash`, in code of its own."""

    def check(self, x, params):
        if not x.numel():
            raise RuntimeError("a grid of 0")


class TwoAxes(Block):
    """No attribute declares it."""

    def check(self, x, params):
        if x.ndim > 3:
            raise RuntimeError("rank")


def test_a_refusal_that_no_attribute_declares_is_told_and_the_rest_is_explained():
    found = identify(TwoAxes(), hidden=0, brief=True)
    assert found.explained
    assert found.limits == ()
    (raised,) = found.raised
    assert raised.words == "a block of tokens [2, 3], 4 channels raises RuntimeError: rank"


@pytest.mark.slow
def test_what_raises_as_a_slip_does_in_code_of_its_own_is_told_by_its_attribute():
    found = identify(Grid(), hidden=0, brief=True)
    assert found.deviation is None
    assert {one.declare for one in found.limits} == {"zero_tokens = False"}


def test_a_target_that_always_raises_has_no_limit():
    class Raises(Parts):
        def check(self, x):
            raise RuntimeError("no kernel")

    found = identify(Raises(), hidden=0, brief=True)
    assert found.silent
    assert not found.explained
    assert (found.limits, found.raised) == ((), ())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("zero-tokens-crash", marks=pytest.mark.slow),
        pytest.param("power-of-two-streams", marks=pytest.mark.slow),
        pytest.param("one-channel-squeezed", marks=pytest.mark.slow),
    ],
)
def test_a_slip_that_raises_is_that_slip_and_no_limit(name):
    target = CATALOGUE[name].make(PAPER)
    found = identify(target, dtype=torch.float32, hidden=0, brief=True)
    assert found.deviation == name
    assert (found.limits, found.raised) == ((), ())


class Crashes(Block):
    """It ends its process for want of a token."""

    dead = 0

    def check(self, x, params):
        if not x.numel() or self.dead:
            self.dead += self.hanging
            raise self.error

    error: Exception = ProcessDied("the worker was killed by SIGFPE")
    hanging = 0


class Hangs(Crashes):
    error, hanging = NoAnswer("20 s"), 1


def test_a_circumstance_that_ends_the_process_is_a_limit():
    found = identify(Crashes(), hidden=0, brief=True)
    assert found.explained
    assert [(one.declare, one.error) for one in found.limits] == [("zero_tokens = False", "ProcessDied")]
    assert found.limits[0].place == ""


def test_a_target_that_hangs_is_not_asked_again():
    target = Hangs()
    with pytest.raises(NoVerdict, match="did not come back"):
        identify(target, hidden=0, brief=True)
    assert target.dead == 1


def test_a_limit_costs_nothing_where_there_is_none(monkeypatch):
    def forbidden(*_):
        raise AssertionError("nothing had raised")

    monkeypatch.setattr(Probing, "met", forbidden)
    target = Parts()
    found = identify(target, hidden=0, brief=True)
    assert found.explained
    assert (found.limits, found.raised) == ((), ())


class Several(Parts):
    def check(self, x):
        if x.shape[-1] % 16 or not x.numel() or not x.is_contiguous() or x.shape[-2] != 4:
            raise RuntimeError("unsupported")


def test_several_limits_are_all_found():
    limits, frame = probed(Several())
    wanted = {"streams = (4,)", "channel_multiple = 16", "zero_tokens = False", "strided = False"}
    assert {one.declare for one in limits} == wanted
    assert (frame.streams, frame.channel_multiple, frame.zero_tokens, frame.strided) == ((4,), 16, False, False)


def test_channels_that_are_powers_of_two_are_no_multiple_and_the_exam_keeps_to_one_that_works():
    class Powers(Parts):
        def check(self, x):
            if x.shape[-1].bit_count() != 1 or x.shape[-1] < 16:
                raise RuntimeError("tile")

    limits, frame = probed(Powers())
    (limit,) = limits
    assert limit.declare == ""
    assert limit.words == "`mappings` raises RuntimeError for 9 channels, and not for 64, which no attribute declares"
    assert frame.channel_multiple == 64


class Three(Parts):
    """Three limits at one line."""

    def check(self, x):
        if x.shape[-1] % 4 or not x.numel() or not x.is_contiguous():
            raise RuntimeError("unsupported")


class Tuned(Parts):
    tunable = frozenset({"iterations", "rms_eps"})

    def tuned(self, **fields):
        if "iterations" in fields:
            raise LookupError("iterations are compiled in")
        return Tuned()


def failure(target: Implementation, law: str, folder: Path) -> tuple[Law, Subject, Search]:
    """One failure as it was found first."""
    subject = Subject("target", target, torch.float32, torch.device("cpu"))
    found = all_laws()[law]
    search = Search(found, subject, Profile(8, derandomise=True, shrink=False), folder / "found.safetensors")
    assert search.verdict().status == "failed"
    return found, subject, search


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "law", "declare"),
    [
        (Three, "coefficients.agrees-with-oracle", "channel_multiple = 4"),
        (Three, "execution.blocks-do-not-see-strides", "strided = False"),
        (Three, "execution.no-token-is-a-legal-batch", "zero_tokens = False"),
        (ContiguousBranch, "execution.blocks-do-not-see-strides", "strided = False"),
        (ForwardOnly, "gradient.block-pulls-back-to-state-and-parameters", "differentiable = False"),
        (NoTokenOfAnotherShape, "execution.no-token-is-a-legal-batch", "zero_tokens = False"),
        (NoWeight, "block.agrees-with-oracle", "norm_weight = False"),
        (Few, "execution.every-token-has-its-mappings", "max_tokens = 64"),
        (Beside, "mixing.pre-is-the-weighted-sum", None),
    ],
)
def test_a_failure_comes_from_the_limit_without_which_it_is_not_asked(kind, law, declare, tmp_path):
    asked, subject, search = failure(kind(), law, tmp_path)
    assert search.case is not None
    assert search.failure is not None
    found = limit_of(asked, subject, search.case, search.failure, limits_at(subject, search.case))
    assert (found.declare if found else None) == declare


def test_what_the_exam_does_not_ask_is_probed_for_a_failure(tmp_path):
    assert {one.declare for one in probed_limits(Tuned())} == {"tunable = frozenset({'rms_eps'})"}
    assert {one.declare for one in probed_limits(Flood(), many=2000)} == {"max_tokens = 1000"}
    assert probed_limits(Flood()) == ()


class Flood(Few):
    most = 1000


def test_a_limit_is_the_same_as_plain_data():
    limits = probed_limits(Several())
    there = Account.from_json(json.loads(json.dumps(Account(limits=limits).to_json()))).limits
    assert there == limits
    assert [TABLE[one.attribute].taken(one.value) for one in there if one.attribute == "streams"] == [(4,)]
