"""Targets under laws: a cell is one law on one target in one dtype with one seed, searched, explained and shrunk."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from properties.campaign.cells import Question
from properties.campaign.folder import Record
from properties.campaign.kind import DeviceLostError, Kind, UnsavedError

if TYPE_CHECKING:
    from properties.engine.subject import Profile, Verdict


def questions(
    impl: Sequence[str] = ("ref",),
    law: Sequence[str] = (),
    dtype: Sequence[str] = (),
    seeds: int = 1,
    profile: str = "ci",
    dialect: str | None = None,
    device: str = "cpu",
) -> Iterator[Question]:
    """One for every target, law (by the beginning of its id), dtype that the target declares, and seed."""
    from properties.campaign.targets import source_of
    from properties.core.implementation import dtype_names
    from properties.core.law import all_laws
    from properties.engine.subject import PROFILES
    from properties.targets.target import TargetError, resolve

    if profile not in PROFILES:
        raise ValueError(f"profile is {profile!r}; expected one of {', '.join(PROFILES)}")
    laws = [one for one in all_laws() if not law or one.startswith(tuple(law))]
    if not laws:
        raise ValueError(f"no law's id begins with {', '.join(law)}; mhc-properties laws lists them")
    for target in impl:
        try:
            declared = dtype_names(resolve(target, dialect=dialect))
        except TargetError as error:
            raise ValueError(str(error)) from None
        if strange := [one for one in dtype if one not in declared]:
            raise ValueError(f"{target} takes {', '.join(declared)}, not {strange[0]}")
        source = source_of(target)
        for name in dtype or declared:
            for one in laws:
                for seed in range(seeds):
                    question = {"target": target, "law": one, "dtype": name, "seed": seed, "profile": profile}
                    given = {"source": source, "dialect": dialect, "device": device if device != "cpu" else None}
                    yield question | {name: value for name, value in given.items() if value}


def answer(question: Question, folder: Path) -> dict[str, Any]:
    """See `searched`. A question may have `examples` and `shrink` instead of those of its profile."""
    from properties.engine.subject import PROFILES

    own = {name: question[name] for name in ("examples", "shrink") if name in question}
    return searched(question, folder, replace(PROFILES[question["profile"]], **own))


def searched(question: Question, folder: Path, profile: Profile) -> dict[str, Any]:
    """One law on one target: {status, reason, examples, claims, abstentions, worst_ratio, message, counterexample,
    behaviour}: the name of the counterexample's file in `folder`, and what the search has seen (`_behaviour`). With
    `profile.shared` also `showing`: by what was seen an example that shows it.

    Where a question has them, `device` is the type of the device that the target computes on, and `narrowed` declares
    less of the target than it does itself (`streams`, `channel_multiple`), so that a kernel is compiled for few shapes;
    `seconds` ends a sweep through sizes, which says what it left out. Then equal questions may have unequal answers.

    Raises:
        ValueError: the target's file has been changed since the question was asked.
        TargetError: the target cannot be used.
        UnsavedError: the counterexample could not be written.
        DeviceLostError: the device does not answer: whatever this process computed there would accuse an innocent.
    """
    import torch

    from properties.campaign.targets import source_of
    from properties.core.device import device_of
    from properties.core.law import all_laws
    from properties.engine.names import file_name
    from properties.engine.runner import examine
    from properties.engine.subject import Subject
    from properties.targets.target import resolve

    if question.get("source") != source_of(question["target"]):
        raise ValueError(f"{question['target']}: the file is another one than when this campaign was asked for")
    dialect = question.get("dialect")
    implementation = resolve(question["target"], dialect=dialect)
    for name, value in question.get("narrowed", {}).items():
        setattr(implementation, name, tuple(value) if isinstance(value, list) else value)
    which, place = getattr(torch, question["dtype"]), torch.device(question.get("device", "cpu"))
    if (missing := device_of(place).missing()) is not None:
        raise DeviceLostError(f"there is {missing}")
    try:
        device_of(place).synchronise()
    except RuntimeError as error:  # an illegal access of a kernel ends every later call of its process, too
        raise DeviceLostError(f"{type(error).__name__}: {error}") from error
    verdict = examine(
        all_laws()[question["law"]],
        Subject(question["target"], implementation, which, place, dialect),
        replace(profile, derandomise=True, remember=False, seconds=question.get("seconds", 0.0)),
        directory=folder,
        randomness=question["seed"],
    )
    message, name = verdict.message, None
    if verdict.status == "failed" and verdict.counterexample is None:
        raise UnsavedError(message)
    if verdict.counterexample is not None:
        # The usual name hangs on where the folder lies, as seen from here: that is another one on another worker.
        name = file_name(f"{verdict.law}[{verdict.subject.id}]") + verdict.counterexample.suffix
        verdict.counterexample.rename(folder / name)
        message = message.replace(verdict.counterexample.name, name)
    return {
        **{"status": verdict.status, "reason": verdict.reason, "examples": verdict.examples},
        **{"claims": verdict.claims, "abstentions": verdict.abstentions},
        "worst_ratio": verdict.worst_ratio if math.isfinite(verdict.worst_ratio) else None,
        "message": message,
        "counterexample": name,
        "behaviour": _behaviour(verdict),
        **({} if profile.shared is None else {"showing": {k: v.to_json() for k, v in verdict.showing.items()}}),
    }


def _behaviour(verdict: Verdict) -> list[str]:
    """What a search has seen, in words that another search may see too: how near each stage came to its bound, which
    sizes were visited, and whether it failed."""
    from properties.core.picture import behaviours

    seen = behaviours(verdict.nearness)
    seen |= {f"{axis} = {size}" for axis, rows in verdict.visited.items() for size, *_ in rows}
    if verdict.status == "failed":
        seen.add("failed")
    return sorted(seen)


def cost(question: Question) -> float:
    """About a second in the profile ci."""
    return {"dev": 0.5, "ci": 1.0}.get(question["profile"], 60.0)


def packages(question: Question) -> tuple[str, ...]:
    """Those of a published implementation."""
    from properties.campaign.targets import packages_of

    return packages_of(question["target"])


def told(records: Sequence[Record], folder: Path) -> tuple[str, bool]:
    """Of every target the verdicts, and each law that failed with its counterexample."""
    from properties.campaign.folder import Folder
    from properties.targets.trust import replay_line

    lines: list[str] = []
    for target in sorted({one["question"]["target"] for one in records}):
        here = [one for one in records if one["question"]["target"] == target]
        counts = Counter(one["answer"]["status"] for one in here)
        lines.append(f"laws: {target}: " + ", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
        for one in here:
            asked, said = one["question"], one["answer"]
            if said["status"] == "failed":
                lines.append(f"  {asked['law']} in {asked['dtype']}, seed {asked['seed']}")
                kept = Folder(folder).files(one["address"]) / said["counterexample"]
                lines.append(f"    {replay_line(kept, target)}")
    return "\n".join(lines), any(one["answer"]["status"] in ("failed", "error") for one in records)


KIND = Kind(
    frozenset({"impl", "law", "dtype", "seeds", "profile", "dialect", "device"}),
    questions,
    answer,
    told,
    cost,
    packages=packages,
)
