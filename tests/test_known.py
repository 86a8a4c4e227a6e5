"""Known failures: written from a run, replayed strictly, and never lost in silence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mhc_ref
from properties.core.case import Case
from properties.core.implementation import Implementation
from properties.core.law import all_laws
from properties.core.ways import PLAIN, way_of
from properties.engine import known
from properties.engine.counterexample import Counterexample
from properties.engine.known import Known, KnownError, entry_for, load, orphans, verdict_for, write
from properties.engine.known_file import load_to_write
from properties.engine.runner import Profile, Subject, Verdict, examine
from properties.plugin.terminal import not_tried
from properties.report.report import Line, runs

LAW = "manifold.last-axis-sums"


class Sums(Implementation):
    """Its rows sum to `total`; it counts its calls."""

    name = "sums"

    def __init__(self, total: float) -> None:
        self.total, self.calls = total, 0

    def project(self, logits: Tensor) -> Tensor:
        self.calls += 1
        return mhc_ref.project(logits, self.dialect) * self.total


def subject(total: float = 1.5, dtype: torch.dtype = torch.float32) -> Subject:
    return Subject("some/file.py:Sums", Sums(total), dtype, torch.device("cpu"))


def failures(tmp_path: Path, *dtypes: torch.dtype) -> list[Verdict]:
    profile = Profile(examples=10, derandomise=True, shrink=False)
    return [
        examine(all_laws()[LAW], subject(dtype=dtype), profile, directory=tmp_path / "run")
        for dtype in dtypes or (torch.float32,)
    ]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "known.toml"
    write(path, failures(tmp_path))
    return path


# -- the life of an entry -------------------------------------------------------------------------------------------


def test_a_failure_is_written_and_read_back(written: Path) -> None:
    (entry,) = load(written)
    assert (entry.law, entry.implementation, entry.dtype, entry.device) == (LAW, "sums", "float32", "cpu")
    assert entry.reason == "a sum of h_res over dim -1"
    assert entry.counterexample.is_file()
    assert entry.counterexample.parent == written.with_suffix("")
    assert f'counterexample = "known/{entry.counterexample.name}"' in written.read_text()


def test_while_it_fails_it_is_known_and_only_its_file_is_tried(written: Path) -> None:
    (entry,) = load(written)
    tried = subject()
    verdict = verdict_for(entry, tried)
    assert (verdict.status, verdict.reason, verdict.examples) == ("known", entry.reason, 1)
    assert verdict.worst_ratio > 1
    assert verdict.counterexample == entry.counterexample
    assert isinstance(tried.implementation, Sums)
    logits = Counterexample.load(entry.counterexample).case.logits
    assert tried.implementation.calls == (1 if way_of(logits, recorded=True) == PLAIN else 2)  # by default once more
    assert verdict_for(entry, subject()).message == verdict.message


def test_a_known_failure_is_drawn_as_one_that_was_just_found(tmp_path: Path, written: Path) -> None:
    """So that a table that replays what is known has its pictures, too."""
    (entry,) = load(written)
    found, drawn = failures(tmp_path)[0].failure, verdict_for(entry, subject()).failure
    assert drawn is not None
    assert found is not None
    assert drawn["picture"] == found["picture"] is not None
    assert [one["name"] for one in drawn["inputs"]] == [one["name"] for one in found["inputs"]]
    assert verdict_for(entry, subject(total=1.0)).failure is None


def test_once_it_is_fixed_the_entry_must_go(written: Path) -> None:
    verdict = verdict_for(load(written)[0], subject(total=1.0))
    assert (verdict.status, verdict.reason) == ("failed", "fixed: remove this entry (known.toml, entry 1)")
    assert "sums satisfies manifold.last-axis-sums for the case of a known failure" in verdict.message
    assert "it said: a sum of h_res over dim -1" in verdict.message


def test_writing_again_keeps_reasons_drops_what_is_fixed_and_leaves_the_rest(tmp_path: Path, written: Path) -> None:
    text = written.read_text().replace('reason = "a sum', 'link = "https://example.org/1"\nreason = "said: a sum')
    other = '\n[[known]]\nlaw = "x.y"\nimplementation = "absent"\nreason = "z"\ncounterexample = "z.safetensors"\n'
    written.write_text(text + other)
    before = load(written)
    again = write(written, failures(tmp_path), keep=before)
    assert {(one.implementation, one.link, one.reason[:5]) for one in again} == {
        ("sums", "https://example.org/1", "said:"),
        ("absent", "", "z"),
    }
    sums = [one for one in again if one.implementation == "sums"]
    assert write(written, [verdict_for(one, subject()) for one in sums], keep=load(written)) == load(written)
    (left,) = write(written, [verdict_for(sums[0], subject(total=1.0))], keep=again)
    assert left.implementation == "absent"


def test_a_report_is_as_good_as_verdicts(tmp_path: Path) -> None:
    found = failures(tmp_path, torch.float64, torch.float32)
    lines = [
        Line(
            "sums", {}, one.subject.dtype_name, "cpu", one.law, one.status, one.reason, 1, None, str(one.counterexample)
        )
        for one in found
    ]
    passed = Line("sums", {}, "float64", "cpu", "manifold.odds-ratios", "passed")
    report = {"runs": runs([*lines, passed])}
    assert write(tmp_path / "a.toml", known.lines_of(report))[0].law == LAW
    write(tmp_path / "b.toml", found)
    assert (tmp_path / "a.toml").read_text().replace("a/", "b/") == (tmp_path / "b.toml").read_text()


def test_any_text_survives(tmp_path: Path, written: Path) -> None:
    (entry,) = load(written)
    reason = 'a "quoted" \\ line\nα ≤ 1\t\x7f\x01'
    (tmp_path / "x").mkdir()
    odd = Known(entry.law, entry.implementation, reason, entry.counterexample, dtype="float32")
    write(tmp_path / "x" / "known.toml", [], keep=[odd])
    assert load(tmp_path / "x" / "known.toml")[0].reason == reason
    assert load(tmp_path / "x" / "known.toml")[0].counterexample.resolve() == entry.counterexample


# -- what it is about -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "covered"),
    [
        ({}, True),
        ({"dtype": "float32"}, True),
        ({"dtype": "float64"}, False),
        ({"device": "cuda"}, False),
        ({"device": "cpu", "dtype": "float32"}, True),
    ],
)
def test_an_entry_covers_the_runs_that_it_names(fields: dict[str, str], covered: bool) -> None:
    entry = Known(LAW, "sums", "", Path("x"), **fields)  # pyright: ignore[reportArgumentType]
    assert (entry_for([entry], LAW, subject()) is entry) == covered
    assert entry_for([entry], "manifold.odds-ratios", subject()) is None


def test_without_a_dtype_the_file_is_tried_in_the_dtype_it_holds(written: Path) -> None:
    (entry,) = load(written)
    everywhere = Known(entry.law, entry.implementation, "always", entry.counterexample)
    assert verdict_for(everywhere, subject(dtype=torch.bfloat16)).status == "known"


# -- nothing is lost in silence ---------------------------------------------------------------------------------------


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def about_another_law(path: Path) -> None:
    stored = Counterexample.load(path)
    dataclasses.replace(stored, law="manifold.odds-ratios").save(path)


def without_its_logits(path: Path) -> None:
    stored = Counterexample.load(path)
    dataclasses.replace(stored, case=Case(z=stored.case.logits)).save(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "there is no file"),
        (truncated, "it is damaged"),
        (about_another_law, "its counterexample about manifold.odds-ratios"),
        (
            without_its_logits,
            "now reads logits, which its counterexample does not have: find it again with --write-known",
        ),
    ],
)
def test_what_cannot_be_tried_is_an_error(written: Path, damage: Callable[[Path], None], message: str) -> None:
    (entry,) = load(written)
    damage(entry.counterexample)
    verdict = verdict_for(entry, subject())
    assert verdict.status == "error"
    assert verdict.reason.startswith("known.toml, entry 1")
    assert message in verdict.reason


def test_a_law_that_no_longer_applies_leaves_a_stale_entry(written: Path) -> None:
    (entry,) = load(written)
    changed = subject()
    changed.implementation.dialect = mhc_ref.HYPER_CONNECTIONS
    verdict = verdict_for(entry, changed)
    assert verdict.status == "failed"
    assert "does not apply any more" in verdict.reason


def test_entries_that_nothing_answers_are_reported(written: Path) -> None:
    (entry,) = load(written)
    renamed = Known("manifold.last-axis-sum", "sums", "", entry.counterexample, origin="known.toml, entry 2")
    line = Line("sums", {}, "float32", "cpu", LAW, "known")
    assert orphans([entry], [line]) == []
    (lost,) = orphans([renamed], [line])
    assert lost.error
    assert lost.message == (
        "known.toml, entry 2: there is no law 'manifold.last-axis-sum'; was it renamed to 'manifold.last-axis-sums'?"
    )
    assert verdict_for(renamed, subject()).reason == lost.message
    (elsewhere,) = orphans([entry], [Line("others", {}, "float32", "cpu", LAW, "passed")])
    assert (elsewhere.error, "sums was not in this run" in elsewhere.message) == (False, True)
    (dtype,) = orphans([entry], [Line("sums", {}, "float64", "cpu", LAW, "passed")])
    assert (dtype.error, "of sums float32 cpu was not in this run" in dtype.message) == (False, True)


def test_many_entries_that_nothing_answers_are_counted_and_an_error_among_them_is_named(written: Path) -> None:
    (entry,) = load(written)
    renamed = Known("manifold.last-axis-sum", "sums", "", entry.counterexample, origin="known.toml, entry 2")
    others = [Line("others", {}, "float32", "cpu", LAW, "passed")]
    few, many = not_tried(orphans([entry] * 3, others)), not_tried(orphans([*[entry] * 4, renamed], others))
    assert [line.endswith("was not tried") for line in few] == [True] * 3
    assert many[0].startswith("known failures: ERROR: known.toml, entry 2: there is no law")
    assert many[1:] == ["known failures: 4 were not tried, about what was not in this run"]


ENTRY = '[[known]]\nlaw = "a.b"\nimplementation = "c"\nreason = "d"\ncounterexample = "e"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[known]\n", "is not TOML"),
        ("x = 1\n", "has x; expected"),
        ("known = 3\n", "expected"),
        ("known = [3]\n", "entry 1 is 3; expected a table"),
        (
            '[[known]]\nlaw = "a.b"\nlaws = "x"\n',
            "lacks implementation, reason, counterexample and has the unknown field laws",
        ),
        (ENTRY.replace('"d"', "4"), "something else than a string as reason"),
        (ENTRY + ENTRY + 'dtype = "float32"\n', "entry 2 is about the same runs of a.b as known.toml, entry 1"),
    ],
)
def test_a_file_with_a_mistake_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "known.toml"
    path.write_text(text)
    with pytest.raises(KnownError, match=message):
        load(path)


def test_no_file_is_refused_and_an_empty_one_is_fine(tmp_path: Path) -> None:
    with pytest.raises(KnownError, match="there is no file"):
        load(tmp_path / "known.toml")
    (tmp_path / "known.toml").write_text("")
    assert load(tmp_path / "known.toml") == []


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00binary",
        b"x = " + b"[" * 100_000,
        b"x = " + b"9" * 10_000,
        b'known = [{law = "\xed\xa0\x80"}]',
        ENTRY.replace('"e"', '"\\u0000"').encode(),
        ENTRY.replace('"a.b"', '""').encode(),
        ENTRY.replace('"a.b"', "{x = 1}").encode(),
        ENTRY.replace("law", '"\\u001b[31m"').encode(),
    ],
)
def test_whatever_the_file_holds_is_refused_in_one_printable_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "known.toml"
    path.write_bytes(content)
    with pytest.raises(KnownError) as caught:
        load(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("schema", ["2", "0", "true", '"1"', "1.0"])
def test_a_form_of_another_version_is_refused(written: Path, schema: str) -> None:
    text = written.read_text()
    assert text.startswith("schema = 1\n")
    entries = load(written)
    written.write_text(text.removeprefix("schema = 1\n"))
    assert load(written) == entries
    written.write_text(text.replace("schema = 1\n", f"schema = {schema}\n"))
    with pytest.raises(KnownError, match="has the schema"):
        load(written)


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(KnownError, match="is no file"):
        load(tmp_path)
    if Path("/dev/zero").exists():
        with pytest.raises(KnownError, match="is no file"):
            load(Path("/dev/zero"))


def test_a_file_beyond_reason_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(KnownError, match="has 1073741824 bytes"):
        load(path)


def test_many_entries_are_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    path.write_text("".join(ENTRY.replace("a.b", f"a.b{number}") for number in range(3000)))
    assert len(load(path)) == 3000


@pytest.mark.parametrize("name", ["", "no-ending", "\0.toml", "file/known.toml", "file.toml", "x" * 300 + ".toml", "."])
def test_a_file_that_could_not_be_written_is_refused_before_the_run(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("stands where the folder of counterexamples of file.toml should be")
    with pytest.raises(KnownError):
        load_to_write(name)


@pytest.mark.slow
def test_a_file_that_is_to_be_written_is_read_first(written: Path, tmp_path: Path) -> None:
    assert load_to_write(str(written)) == load(written)
    assert load_to_write(str(tmp_path / "new" / "known.toml")) == []
    written.write_text("[[known]\n")
    with pytest.raises(KnownError, match="is not TOML"):
        load_to_write(str(written))


def test_a_disk_that_is_full_leaves_the_file_as_it_was(
    tmp_path: Path, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = written.read_bytes()
    verdicts = failures(tmp_path, torch.float64)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("properties.guards.whole.os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        write(written, verdicts, keep=load(written))
    assert written.read_bytes() == before
    assert not [path for path in tmp_path.rglob("*.partial")]
