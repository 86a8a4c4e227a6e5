"""Mixes from outside: explosions ask what they guarantee, and answer with a cap by name or what is found."""

import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mhc_ref import DEEPSEEK_V4, HYPER_CONNECTIONS, LIGER, MHC_LITE, PAPER, RESIDUAL, Dialect, registry
from properties import cli
from properties.explosion import ExplosionFileError, Monitor, find_minimal, load, replay, save
from properties.explosion.composite import composite, reaches
from properties.explosion.files import about
from properties.explosion.mixing import of_dialect
from properties.explosion.monitor.limits import limits, limits_of
from properties.explosion.proofs.caps import applied, largest
from properties.explosion.questions.families import ask
from properties.explosion.searches.projected import way_of
from properties.families import Guarantees, Mix
from properties.guards.faults import HarnessError
from properties.targets.target import TargetError, resolve

MIXES = '''
import torch
from mhc_ref import Dialect
from properties import Implementation
from properties.families import Field, Guarantees, Mix


class Turn(Mix):
    """Of n logits the first turns two streams: [[c, -s], [s, c]] with t = z/2, c = (1 - t^2)/(1 + t^2)."""

    name = "explosion_turn"
    roundings = 8

    def shape(self, n, dialect):
        return (n,)

    def project(self, logits, dialect):
        n, t = logits.shape[-1], logits[..., 0] / 2
        turned = torch.eye(n, dtype=logits.dtype).expand(*logits.shape, n).clone()
        if n > 1:
            c, s = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
            turned[..., 0, 0], turned[..., 1, 1], turned[..., 0, 1], turned[..., 1, 0] = c, c, -s, s
        return turned

    def exact(self, z, n, dialect, real):
        turned, t = [[int(i == j) for j in range(n)] for i in range(n)], z[0] / 2
        if n > 1:
            c, s = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
            turned[0][0], turned[0][1], turned[1][0], turned[1][1] = c, -s, s, c
        return turned

    def guarantees(self, dialect):
        return Guarantees(orthogonal=True)


class Send(Mix):
    """Every stream sends shares of itself: a softmax down each column, times a number up to 1."""

    name = "explosion_send"
    FIELDS = {"kept": Field(1.0, lambda kept: 0 < kept <= 1, "a number above 0, at most 1")}

    def project(self, logits, dialect):
        return dialect.kept * logits.softmax(-2)

    def exact(self, z, n, dialect, real):
        columns = [[dialect.kept * share for share in real.softmax([z[i * n + j] for i in range(n)])] for j in range(n)]
        return [[columns[j][i] for j in range(n)] for i in range(n)]

    def guarantees(self, dialect):
        one = frozenset({"column"})
        return Guarantees(nonnegative=True, sums=one if dialect.kept == 1 else frozenset(), capped=one)


class Fixed(Mix):
    """Three quarters of every stream to every other, whatever the logits."""

    name = "explosion_fixed"

    def project(self, logits, dialect):
        return torch.full_like(logits, 0.75)

    def exact(self, z, n, dialect, real):
        return [[0 * z[0] + 3 / real.mp.mpf(4)] * n for _ in range(n)]

    def guarantees(self, dialect):
        return Guarantees(nonnegative=True, constant=True)


class Free(Mix):
    """A third of the logits, of which nothing is said."""

    name = "explosion_free"

    def project(self, logits, dialect):
        return logits / 3

    def exact(self, z, n, dialect, real):
        return [[z[i * n + j] / 3 for j in range(n)] for i in range(n)]


class Broken(Free):
    name = "explosion_broken"

    def project(self, logits, dialect):
        raise RuntimeError("out of registers")


class Turning(Implementation):
    dialect = Dialect(residual=Turn())

    def project(self, logits):
        return Turn().project(logits, self.dialect)


class Sending(Implementation):
    dialect = Dialect(residual=Send())

    def project(self, logits):
        return logits.softmax(-2)


class Kept(Implementation):
    dialect = Dialect(residual=Send(), kept=0.5, transposed=True)

    def project(self, logits):
        return 0.5 * logits.softmax(-2)
'''


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of somebody's own, outside of the packages."""
    path = tmp_path_factory.mktemp("theirs") / "mixes.py"
    path.write_text(MIXES)
    return path


@pytest.fixture(scope="module")
def mixes(theirs: Path) -> Any:
    """What is in it, registered."""
    return vars(sys.modules[type(resolve(f"{theirs}:Turning")).__module__])


def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process in which nobody has loaded that file."""
    for name in [name for name in sys.modules if name.startswith("_mhc_target_mixes")]:
        monkeypatch.delitem(sys.modules, name)
    for key in [key for key in registry._outside if key[1].startswith("explosion_")]:
        monkeypatch.delitem(registry._outside, key)


def asked(mixes: Any, mix: str, threshold: Any, **options: Any) -> Any:
    fields = options.pop("fields", {})
    return find_minimal("mhc", threshold, dialect=Dialect(residual=mixes[mix](), **fields), **options)


@pytest.mark.parametrize(
    ("mix", "threshold", "options", "said"),
    [
        ("Turn", "1.01", {"gain": "spectral"}, "the spectral gain is at most 1: A is orthogonal"),
        ("Turn", "2.01", {}, "the forward gain is at most the square root of 4: A is orthogonal"),
        ("Turn", "1.42", {"gain": "signed", "max_streams": 2}, "at most the square root of 2"),
        (
            "Turn",
            "0.99",
            {"direction": "vanish", "gain": "signed"},
            "A is orthogonal, so no gain of a product",
        ),
        ("Send", "1.01", {"gain": "backward"}, "the backward gain is at most 1: columns of A are capped"),
        ("Send", "1.01", {"fields": {"transposed": True}}, "the forward gain is at most 1: rows of A are capped"),
        ("Send", "4.01", {}, "the forward gain is at most 4: columns of A are capped"),
        ("Send", "2.01", {"gain": "spectral"}, "is at most the square root of 4"),
        ("Send", "0.9", {"direction": "vanish"}, "every column of A sums to exactly 1, so no gain"),
        ("Fixed", "8", {"max_depth": 5, "max_streams": 1}, "does not depend on the logits"),
    ],
)
def test_what_the_guarantees_exclude_is_impossible_by_name(mixes, mix, threshold, options, said):
    found = asked(mixes, mix, threshold, **options)
    assert (found.found, found.impossible, found.minimality) == (False, True, "proved")
    assert said in found.proof


@pytest.mark.parametrize(
    ("mix", "threshold", "options", "size", "minimality"),
    [
        ("Turn", "1.4", {"max_streams": 2}, (1, 2), "proved"),
        ("Turn", "1", {"gain": "spectral"}, (1, 1), "proved"),
        ("Send", "1.9", {}, (1, 2), "proved"),
        pytest.param("Send", "2.5", {"max_streams": 3}, (1, 3), "proved", marks=pytest.mark.slow),
        pytest.param(
            *("Send", "0.2", {"fields": {"kept": 0.5}, "direction": "vanish", "max_streams": 1}, (3, 1), "searched"),
            marks=pytest.mark.slow,
        ),
        ("Fixed", "8", {"max_streams": 2}, (6, 2), "proved"),  # 1.5^6 = 11.4
        ("Free", "7", {}, (1, 1), "proved"),
    ],
)
def test_the_smallest_that_is_found_is_exact_and_survives_its_file(
    mixes, mix, threshold, options, size, minimality, tmp_path
):
    found = asked(mixes, mix, threshold, **options)
    assert (found.found, found.depth, found.streams, found.minimality) == (True, *size, minimality)
    assert reaches(composite(found.operators), found.gain, found.request.threshold, found.request.direction)
    path = tmp_path / "x.safetensors"
    assert load(save(found, path).file or "") == save(found, path)
    assert replay(path).exact_value == found.exact_value


def test_a_formula_of_somebody_else_that_raises_is_named(mixes):
    with pytest.raises(TargetError, match="'explosion_broken': its formula raised RuntimeError: out of registers"):
        asked(mixes, "Broken", 2)


def test_short_storage_is_searched_where_a_division_normalises_only(mixes):
    with pytest.raises(ValueError, match="dtype is 'bfloat16'"):
        asked(mixes, "Send", 2, dtype="bfloat16")
    with pytest.raises(ValueError, match="no effect: mhc has residual 'explosion_send' here"):
        asked(mixes, "Send", 2, iterations=3)


@pytest.mark.parametrize("mix", ["Turn", "Send"])
@settings(max_examples=15, deadline=None)
@given(data=st.data(), transposed=st.booleans())
def test_no_logits_pass_what_the_guarantees_say(mixes, mix, data, transposed):
    """Exact products of up to three matrices of any logits."""
    dialect = Dialect(residual=mixes[mix](), transposed=transposed)
    mixing, n = of_dialect(dialect), data.draw(st.integers(1, 3))
    shape = (data.draw(st.integers(1, 3)), *mixing.shape(n))
    count = int(torch.Size(shape).numel())
    flat = data.draw(st.lists(st.floats(-20, 20, width=32), min_size=count, max_size=count))
    product = composite(mixing.exact(torch.tensor(flat, dtype=torch.float64).view(shape)))
    for gain, cap in largest(applied(dialect), n).items():
        limit = Fraction(cap.value) if cap.squared else cap.limit
        assert not reaches(product, gain, limit * (1 + Fraction(1, 10**12)), "explode")


@pytest.mark.parametrize("dialect", [PAPER, DEEPSEEK_V4, LIGER, MHC_LITE, RESIDUAL, PAPER.with_(iterations=0)])
def test_the_caps_of_the_guarantees_are_never_below_the_sharper_ones_of_a_way(dialect):
    """What a mix brings besides its guarantees may sharpen a cap, and never widens one."""
    for gain in ("forward", "backward", "spectral"):
        question = ask("mhc", 2, gain=gain, dialect=dialect)
        mine, theirs = largest(applied(dialect), 3).get(gain), way_of(dialect).cap(question, 3, 1)
        assert mine is None or (theirs is not None and theirs.value <= mine.value)


def test_a_monitor_takes_its_limits_from_guarantees(mixes):
    turn, send = Dialect(residual=mixes["Turn"]()), Dialect(residual=mixes["Send"]())
    assert limits_of(turn, 4) == {"forward": 2, "backward": 2}
    assert limits_of(send, 4) == {"forward": 4, "backward": 1}
    assert (limits(send, 4).exact, limits(send.with_(transposed=True), 4).exact) == (("column",), ("row",))
    assert limits_of(Dialect(residual=mixes["Free"]()), 4) == limits_of(HYPER_CONNECTIONS, 4) == {}
    monitor = Monitor(dialect=send)
    monitor.record(torch.tensor([[[0.9, 0.9], [0.1, 0.1]]], dtype=torch.float64))
    monitor.record(torch.tensor([[[1.0, 1.0], [0.1, 0.1]]], dtype=torch.float64))
    assert [row["leaves"] for row in monitor.flush()] == [None, "explode"]


def test_a_monitor_leaves_what_is_orthogonal_in_peace_and_names_what_is_not(mixes):
    """Streams turned by 45 degrees have sums of sqrt(2), which is the limit; in float32 roundings pass it."""
    turn = Dialect(residual=mixes["Turn"]())
    turned = turn_of(mixes, 2 * 0.41421356237309503, torch.float32)
    for scale, leaves in ((1.0, None), (1.001, "explode")):
        monitor = Monitor(dialect=turn)
        for _ in range(30):
            monitor.record(scale * turned)
        assert {row["leaves"] for row in monitor.flush()} >= {leaves}
        assert (monitor.left is None) == (leaves is None)


def turn_of(mixes: Any, logit: float, dtype: torch.dtype) -> torch.Tensor:
    return mixes["Turn"]().project(torch.tensor([[logit, 0.0]], dtype=dtype), Dialect(residual=mixes["Turn"]()))


def test_the_command_asks_the_mixing_that_a_target_declares(theirs, tmp_path):
    path = tmp_path / "x.safetensors"
    options = ["--threshold", "1.9", "--json", "--save", str(path)]
    done = CliRunner().invoke(cli.app, ["explode", "mhc", "--impl", f"{theirs}:Sending", *options])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout.splitlines()[-1])
    assert (answer["family"], answer["depth"], answer["streams"], answer["minimality"]) == ("mhc", 1, 2, "proved")
    assert about(path) == ("mhc", f"{theirs}:Sending")
    done = CliRunner().invoke(cli.app, ["explode", "mhc", "--impl", f"{theirs}:Kept", "--threshold", "1.1", "--json"])
    assert "rows of A are capped" in json.loads(done.stdout.splitlines()[-1])["proof"]


def test_a_file_about_a_mix_from_outside_runs_nothing_unasked(theirs, tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save(find_minimal("mhc", "1.9", impl=f"{theirs}:Sending"), path)
    forgotten(monkeypatch)
    with pytest.raises(ExplosionFileError, match="which would run the Python file"):
        replay(path)
    with pytest.raises(ExplosionFileError, match="explosion_send"):
        load(path)
    forgotten(monkeypatch)
    assert replay(path, trust=True).verdict == "FAILED"
    assert replay(path, target=f"{theirs}:Sending").verdict == "FAILED"
    assert replay(path, target=f"{theirs}:Kept").verdict == "FIXED"
    with pytest.raises(ExplosionFileError, match="logits are no"):
        replay(path, target=f"{theirs}:Turning")


def test_an_implementation_with_logits_of_any_shape_is_searched_as_a_target(theirs):
    found = find_minimal(f"target:{theirs}:Turning", "1.4", max_streams=2, max_depth=2)
    assert (found.found, found.depth, found.streams) == (True, 1, 2)


def test_a_claim_without_a_formula_is_answered_by_its_caps_alone(mixes):
    claim = type("Claim", (mixes["Send"],), {"name": "explosion_claim", "known": False})
    dialect = Dialect(residual=claim())
    assert find_minimal("mhc", "1.01", gain="backward", dialect=dialect).impossible
    with pytest.raises(ValueError, match="has no formula to be searched"):
        find_minimal("mhc", "1.5", dialect=dialect)


def test_a_block_with_mixing_from_outside_grows_as_its_rows_allow(mixes):
    """Rows that sum to 1 add nothing, whatever made them: the branch grows as it does beside the identity."""
    dialect = Dialect(residual=mixes["Send"](), transposed=True)
    found = find_minimal("block", 30, dialect=dialect, max_streams=2)
    assert (found.depth, found.streams, found.minimality) == (3, 2, "proved")
    assert found.proof == find_minimal("block", 30, dialect=RESIDUAL, max_streams=2).proof
    with pytest.raises(ValueError, match="applied rows are normalised"):
        find_minimal("block", 30, dialect=dialect.with_(transposed=False))


class Unkept(Mix):
    """A softmax of rows is not orthogonal."""

    name = "explosion_unkept"

    def project(self, logits, dialect):
        return logits.softmax(-1)

    def exact(self, z, n, dialect, real):
        return [real.softmax(z[n * i : n * i + n]) for i in range(n)]

    def guarantees(self, dialect):
        return Guarantees(orthogonal=True)


class Raising(Unkept):
    name = "explosion_raising"

    def project(self, logits, dialect):
        raise RuntimeError("out of registers")


def test_nothing_is_proved_by_a_guarantee_of_a_formula_that_raises():
    with pytest.raises(HarnessError, match=r"'explosion_raising' cannot be believed: its formula raised .*registers"):
        find_minimal("mhc", "1.2", gain="spectral", dialect=Dialect(residual=Raising()))


def test_nothing_is_proved_by_a_guarantee_that_the_formula_does_not_keep():
    """At n = 4 all weight on one column has the spectral gain 2, which no orthogonal matrix has."""
    with pytest.raises(
        HarnessError, match=r"'explosion_unkept' cannot be believed: .* M M\^T is the identity.* proved"
    ):
        find_minimal("mhc", "1.2", gain="spectral", dialect=Dialect(residual=Unkept()))
