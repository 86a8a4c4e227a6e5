"""The laws inside somebody's own test file, in one line.

    from properties.conformance import conformance

    test_laws = conformance(MyImplementation)

makes a test for every law and dtype, `test_laws[manifold.last-axis-sums-float32-cpu]`: the ids are those of the laws,
so that `pytest -k`, `--deselect` and a list of expected failures keep working. A law that does not apply is skipped
with its reason; a failure prints the smallest input and is stored beside a run of the laws themselves.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from properties.core.device import device_of
from properties.core.implementation import Implementation, dtype_names, dtype_of
from properties.core.law import Law, all_laws
from properties.engine.known import Known, entry_for, load, verdict_for
from properties.engine.runner import PROFILES, HarnessError, Subject, Verdict, examine
from properties.guards.surroundings import told
from properties.plugin.options import counterexamples, profile_name
from properties.targets.target import TargetError, check, resolve


def conformance(
    implementation: Implementation | type[Implementation] | str,
    *,
    laws: str | Law | Sequence[str | Law] = "",
    dtypes: Sequence[str] | None = None,
    device: str = "cpu",
    known: str | Path | None = None,
    profile: str | None = None,
) -> Callable[..., None]:
    """A parametrised test function of an implementation, of its class, or of a target such as "published:liger".

    Args:
        laws: only those whose id begins so; one or several, such as "manifold" or ("block.", "depth."). A law of your
            own, made with `properties.core.law.law`, is given as it is.
        dtypes: only those of the declared ones, by name.
        known: a file of known failures, which are replayed and expected to fail (`properties.engine.known`).
        profile: "dev", "ci" or "thorough"; otherwise what `--hypothesis-profile` or the environment says.

    Raises:
        TargetError: nothing usable is there, or no law or dtype is left.
    """
    target, found = _resolved(implementation)
    given = (laws,) if isinstance(laws, str | Law) else tuple(laws)
    prefixes = tuple(one for one in given if isinstance(one, str))
    chosen = [law for law in all_laws().values() if law.id.startswith(prefixes)]
    chosen += [one for one in given if isinstance(one, Law)]
    chosen_dtypes = None if dtypes is None else [dtype_of(one) for one in dtypes]
    names = [name for name in dtype_names(found) if chosen_dtypes is None or getattr(torch, name) in chosen_dtypes]
    if not chosen or not names:
        wanted = f"laws {laws!r}" if not chosen else f"dtypes {dtypes!r} among {', '.join(dtype_names(found))}"
        raise TargetError(f"conformance of {found.name}: there are no {wanted}")
    place = torch.device(device)
    entries: list[Known] = [] if known is None else load(Path(known))
    pairs = [(law, Subject(target, found, getattr(torch, name), place)) for law in chosen for name in names]

    @pytest.mark.parametrize(
        ("law", "subject"), pairs, ids=[f"{law.id}-{subject.dtype_name}-{device}" for law, subject in pairs]
    )
    def test_conformance(law: Law, subject: Subject, request: pytest.FixtureRequest) -> None:
        if (missing := device_of(place).missing()) is not None:
            pytest.skip(f"not applicable: {missing}")
        entry = entry_for(entries, law.id, subject)
        if entry is not None:
            verdict = verdict_for(entry, subject)
        else:
            chosen_profile = PROFILES[profile or profile_name(request.config)]
            verdict = examine(law, subject, chosen_profile, directory=counterexamples(request.config))
        _report(verdict)

    return test_conformance


def _report(verdict: Verdict) -> None:
    if verdict.status == "not-applicable":
        pytest.skip(f"not applicable: {verdict.reason}")
    if verdict.status == "known":
        pytest.xfail(verdict.reason)
    if verdict.status == "failed":
        pytest.fail(verdict.message, pytrace=False)
    if verdict.status == "error":
        raise HarnessError(verdict.reason)


@told()
def _resolved(implementation: Implementation | type[Implementation] | str) -> tuple[str, Implementation]:
    """The implementation, and the target that names it for `mhc-properties replay`."""
    if isinstance(implementation, str):
        return implementation, resolve(implementation)
    kind = implementation if isinstance(implementation, type) else type(implementation)
    found: Any = implementation() if isinstance(implementation, type) else implementation
    if not isinstance(found, Implementation):
        raise TargetError(
            f"conformance was given {kind.__name__}, no properties.Implementation: subclass it, or give a target"
        )
    check(found, f"conformance of {kind.__name__}")
    if not found.name:
        found.name = kind.__name__
    file = Path(inspect.getfile(kind))
    here = os.path.relpath(file) if file.is_relative_to(Path.cwd()) else str(file)
    return f"{here}:{kind.__qualname__}", found
