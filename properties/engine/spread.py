"""How the examples of a law are spread over stream counts, and how Hypothesis draws and remembers them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.strategies import DrawFn, SearchStrategy

from properties.core.arranged import PROMPT, SEQUENCES, STEPS
from properties.core.case import Case, streams_of
from properties.core.law import Law, Schedule
from properties.engine.names import file_name, identity
from properties.engine.subject import Profile, Subject
from properties.strategies import Setting
from properties.strategies.setting import Crowd

T = TypeVar("T")


def some_by_name(every: Sequence[T], most: float | None, name: str, randomness: int | None = None) -> list[T]:
    """So many of them, one after the other, from one that the name says; None for all. A half is one of them or none,
    as the name says. With `randomness`, others for other numbers."""
    if most is None:
        return list(every)
    number = zlib.crc32((name if randomness is None else f"{name} {randomness}").encode())
    first = number % max(1, len(every))
    return [*every[first:], *every[:first]][: int(most + (number >> 16) % 64 / 64)]


def frames(setting: Setting, most: int, schedule: Schedule) -> list[tuple[Setting, int]]:
    """A quarter of the examples over every accepted n, the rest n by n: none is left to chance.

    An n by itself gets one at least, which is not the simplest (`after_the_simplest`).
    """
    examples = most / schedule.cost
    if schedule.most:
        return [(setting, max(1, min(schedule.most, round(examples))))]
    if not schedule.by_streams:
        return [(setting, max(3, round(examples)))]
    each = max(1, int(0.75 * examples / len(setting.streams)))
    if len(setting.streams) == 1:
        return [(setting, max(3, round(examples)))]
    return [(setting, max(3, round(examples / 4))), *((setting.with_(streams=(n,)), each) for n in setting.streams)]


def some_frames(
    law: Law, setting: Setting, profile: Profile, randomness: int | None = None
) -> list[tuple[int, tuple[Setting, int]]]:
    """Those in which a profile tries a law, with their numbers, and how many examples each gets."""
    over_all, *alone = enumerate(frames(setting, profile.examples, law.schedule))
    return [over_all, *some_by_name(alone, profile.alone, law.id, randomness)]


CROWDS = Crowd(70, 9, SEQUENCES), Crowd(10, 130, STEPS, layers=5), Crowd(64, 128, PROMPT)
"""Five sequences of 14 tokens, beyond tiles of 16 and of 64; ten steps of decoding, beyond tiles of 128 channels, in
more layers than two buffers or four are for; one prompt of full tiles."""
LESS = (
    *(Crowd(70), Crowd(0, 130), Crowd(0, 0, layers=5), Crowd(64, 128)),
    *(Crowd(35, 0, SEQUENCES), Crowd(6, 0, STEPS), Crowd(6, 0, PROMPT)),
)
"""What of it is enough, the simplest first, where something fails."""


def crowds(setting: Setting, kind: str = "") -> list[Setting]:
    """The frames in which a law of a kind is tried once more each: with the n of most models, and steps with most
    streams. Laws that ask the truth go without full tiles: their values are swept there, in laws about sizes."""
    n = max((one for one in setting.streams if one <= 4), default=min(setting.streams))
    most = max((one for one in setting.streams if one <= 5), default=n)
    every = zip((n, most, n), CROWDS, strict=True)
    return [setting.with_(streams=(k,), crowd=one) for k, one in every if kind != "oracle" or one.axes != PROMPT]


def passes_over(law: Law) -> bool:
    """Whether a law goes without its simplest example: of two that make hundreds of calls each, where a crowd of full
    tiles has taken the place of one."""
    return law.schedule.most == 2 and law.schedule.crowds and law.sweep is None and law.kind != "oracle"


def fewer_streams(case: Case, setting: Setting, also_as_many: bool = False) -> list[Setting]:
    """The frames of every accepted n below that of the case, smallest first; `also_as_many`: and that of its own."""
    n = streams_of(case, setting.dialect)
    most = -1 if n is None else n - (not also_as_many)
    return [setting.with_(streams=(k,)) for k in sorted(setting.streams) if k <= most]


@st.composite
def after_the_simplest(draw: DrawFn, cases: SearchStrategy[Case], skip: bool) -> Case | None:
    """A case, or None in place of the simplest if that is passed over: Hypothesis always begins with it, where phi is
    0, all logits are 0 and no branch does anything. Seeing that for one n is enough; of two examples of each n it would
    be one.

    The choice is drawn in any case, so that what the database remembers is read as it was written.
    """
    if not draw(st.booleans()) and skip:
        return None
    return draw(cases)


def seed_of(law: Law, subject: Subject, index: int, randomness: int | None) -> int:
    """The same in every run, and another one for every law, dtype and frame.

    Hypothesis derives its own from the source of the test, which is one function here: all frames would draw alike.
    """
    text = f"{law.id} {subject.dtype_name} {index} {randomness}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def database(law: Law, subject: Subject) -> Path:
    """Hypothesis keys its database by the source of the test, which is the same for every law and subject."""
    folder = Path(".hypothesis") / "laws"
    return folder / name_in(folder, law, subject)


def drawn(law: Law, frame: Setting) -> SearchStrategy[Case]:
    """The cases of a law, with parameters as they are stored, and tokens on the axes of the crowd."""
    cases = law.draw(frame)
    cases = cases if frame.parameters == "compute" else cases.map(frame.stored)
    if frame.crowd is None or not frame.crowd.axes:
        return cases
    axes = frame.crowd.axes
    return cases.map(lambda case: case.with_(axes=axes))


def tried(law: Law, frame: Setting, parted: bool, skip: bool) -> SearchStrategy[Case | None]:
    """The cases of a law; where examples are `parted`, or few, with None in place of the simplest if that is passed
    over."""
    cases = drawn(law, frame)
    return after_the_simplest(cases, skip) if parted or passes_over(law) else cases


def settings_of(profile: Profile, examples: int, law: Law, subject: Subject, frame: Setting) -> settings:
    """Those of Hypothesis for so many examples of a frame; what fails in a crowd is not shrunk, but tried in less of
    it."""
    profile = profile if frame.crowd is None else replace(profile, shrink=False, remember=False)
    memory = DirectoryBasedExampleDatabase(database(law, subject)) if profile.remember else None
    return settings(
        max_examples=examples,
        deadline=None,  # shared machines; time is measured by the benchmarks, not here
        database=memory,
        phases=(Phase.explicit, Phase.reuse, Phase.generate) + ((Phase.shrink,) if profile.shrink else ()),
        print_blob=False,
        verbosity=Verbosity.quiet,  # it would advise to decorate a test that nobody has
        report_multiple_bugs=False,
        # Left on: filter_too_much and data_too_large. A strategy of ours that throws inputs away tries less than is
        # reported. Off: too_slow and large_base_example, as examples are batches on purpose and machines are shared.
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
    )


def name_in(folder: Path, law: Law, subject: Subject) -> str:
    """What the file of a law on a subject is called in a folder."""
    told_apart = identity(subject.target, folder), subject.dialect_option
    return file_name(f"{law.id}[{subject.id}]", *told_apart)
