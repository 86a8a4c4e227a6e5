"""`explode` and `atlas` with bad questions, hostile targets and full disks: one sentence, the right exit."""

import json
import signal
import sys
from fractions import Fraction

import pytest
import torch
import typer
from typer.testing import CliRunner

import properties.explosion.command as command_module
from properties import cli
from properties.explosion import atlas, find_minimal, load, overhead, replay, save
from properties.targets.target import TargetError


def invoked(*arguments):
    return CliRunner().invoke(cli.app, list(arguments))


def refused(*arguments):
    """The sentence of a question that is refused: alike with and without --json, and no traceback."""
    done, spoken = invoked(*arguments, "--json"), invoked(*arguments)
    for one in (done, spoken):
        assert one.exit_code == 2
        assert one.exception is None or isinstance(one.exception, SystemExit)
    (line,) = done.stdout.splitlines()
    answer = json.loads(line)
    assert answer["exit"] == 2
    assert spoken.stdout == ""
    return answer["error"]


# ---- options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["hc", "--entry-bound", "1.25", "--max-streams", "1000000000"],
            "max_streams is 1000000000; expected at most 64",
        ),
        (["block", "--max-width", "1000000000"], "max_width is 1000000000; expected at most 4096"),
        (["mhc", "--iterations", "1000000000"], "iterations is 1000000000; expected at most 1000"),
        (["mhc", "--iterations", "-1"], "iterations is -1"),
        (["residual", "--max-depth", "1000000000"], "max_depth is 1000000000"),
        (["residual", "--seed", "99999999999999999999"], "seed is 99999999999999999999"),
        (["residual", "--budget", "nan"], "budget is nan"),
        (["residual", "--budget", "inf"], "budget is inf"),
        (["residual", "--budget", "-1"], "budget is -1"),
        (["residual", "--budget", "0"], "budget is 0"),
        (["residual", "--threshold", "5e-324"], "threshold is 5e-324"),
        (["residual", "--threshold", "1e" + "9" * 5000], "threshold is "),
        (["residual", "--dialect", "PAPER"], "dialect is given, and has no effect: residual has no projection"),
        (["hc", "--entry-bound", "1", "--dialect", "LIGER"], "dialect is given, and has no effect"),
        (["hc:dynamic", "--identity-bound", "1", "--iterations", "2"], "iterations is given, and has no effect"),
        (["mhc", "--dialect", "MHC_LITE", "--iterations", "2"], "has residual 'permutations' here"),
        (["block", "--dialect", "RESIDUAL", "--iterations", "2"], "has residual 'identity' here"),
        (["target:ref:PAPER", "--iterations", "2"], "a target iterates as often as it does"),
        (
            ["mhc", "--branch-bound", "1"],
            "mhc has no branch here; it is an option of residual and block",
        ),
        (["residual", "--max-streams", "3"], "max_streams is 3, and has no effect: residual has one stream"),
        (["mhc", "--max-width", "2"], "max_width is given, and has no effect: mhc has no channels"),
        (["residual", "--dialect", "PAPERS"], "dialect is 'PAPERS'; expected one of PAPER"),
        (
            ["resnet"],
            "family is 'resnet'; expected one of residual, hc, hc:dynamic, mhc, block[",
        ),
        (["hc:static", "--entry-bound", "1"], "family is 'hc:static'"),
        (["\x1b[31mred"], "family is '\\x1b[31mred'"),
        (["residual", "--max-depth", "nan"], "--max-depth"),
        (["residual", "--max-depth", ""], "--max-depth"),
        (["residual", "--nonsense"], "No such option"),
        ([], "Missing argument"),
    ],
)
def test_a_bad_question_ends_in_one_sentence(arguments, message):
    given = arguments if "--threshold" in arguments else [*arguments, "--threshold", "2"]
    assert message in refused("explode", *given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-streams", "1000000000"], "max_streams is 1000000000; expected an integer from 1 to 16"),
        (["--max-streams", "0"], "max_streams is 0"),
        (["--max-depth", "0"], "max_depth is 0"),
        (["--max-depth", "1000000"], "max_depth is 1000000"),
        (["--budget", "nan"], "budget is nan"),
        (["--budget", "inf"], "budget is inf"),
        (["--budget", "-5"], "budget is -5"),
        (["--deviation", "nan"], "deviation is 'nan'"),
        (["--deviation", "-1"], "is -1; expected more than 0"),
        (["--seed", "99999999999999999999"], "seed is"),
        (["--seed", "x"], "--seed"),
    ],
)
def test_a_bad_atlas_ends_in_one_sentence(arguments, message):
    assert message in refused("atlas", *arguments)


@pytest.mark.slow  # exact products of numbers of 300 digits
def test_an_atlas_of_tiny_weights_keeps_its_budget():
    made = atlas(100, deviations=("1e-300",), max_streams=1, budget=0.5)
    assert not made.complete
    assert all(one.searched is None for one in made.points), "the first search is given up, and no other is begun"


def test_dialects_may_be_named_in_the_library_too():
    assert find_minimal("mhc", "4.01", gain="backward", dialect="PAPER").impossible
    with pytest.raises(ValueError, match="dialect is 5"):
        find_minimal("mhc", 2, dialect=5)  # pyright: ignore[reportArgumentType]


# ---- targets

TARGETS = """
import itertools
import pytest
import torch
from mhc_ref import HYPER_CONNECTIONS, PAPER, project as reference
from properties import Implementation

def grown(logits):
    return 1.5 * logits.softmax(-1)

def turned(logits):
    return 1.5 * logits.softmax(-2)

class Short(Implementation):
    streams = (2,)
    dtypes = (torch.float32,)
    def project(self, logits):
        if logits.dtype != torch.float32:
            raise TypeError(f"got {logits.dtype}")
        return 1.5 * logits.softmax(-1)

class Shorter(Short):
    dtypes = ("bfloat16",)

class Open(Implementation):
    dialect = HYPER_CONNECTIONS
    streams = (2,)
    def project(self, logits):
        return logits

class Halved(Open):
    def project(self, logits):
        return 0.75 * logits

class Mapped(Implementation):
    dialect = HYPER_CONNECTIONS
    def mappings(self, x, params):
        raise NotImplementedError

class Silent(Implementation):
    def pre(self, x, h_pre):
        return x[..., 0, :]

def raising(what):
    class Raising(Implementation):
        streams = (2,)
        def project(self, logits):
            raise what
    return Raising

Raises = raising(ValueError("a \\x1b[31mred error"))
Exits = raising(SystemExit(0))
Skips = raising(pytest.skip.Exception("not today"))

def giving(make):
    class Giving(Implementation):
        streams = (2,)
        def project(self, logits):
            return make(logits)
    return Giving

def hanging():
    while True:
        pass

Hangs = giving(lambda logits: hanging())
counted = itertools.count(1)
Alternates = giving(lambda logits: torch.full_like(logits, 3 if next(counted) % 2 else 0.1))
Interrupts = raising(KeyboardInterrupt())
Nothing = giving(lambda logits: None)
Wrong = giving(lambda logits: logits[..., 0])
Complex = giving(lambda logits: logits.to(torch.complex64))
Meta = giving(lambda logits: logits.to("meta"))
Sparse = giving(lambda logits: logits.to_sparse())
Infinite = giving(lambda logits: logits / 0)
Overwrites = giving(lambda logits: logits.fill_(0.75))
"""


@pytest.fixture
def target(tmp_path):
    (tmp_path / "some.py").write_text(TARGETS)
    return lambda name: f"target:{tmp_path}/some.py:{name}"


@pytest.mark.slow
def test_a_plain_function_is_searched_as_what_it_claims_to_be(target, tmp_path):
    """The same function is x' = A x for PAPER and A^T x for DEEPSEEK_V4, whose rows sum to up to 1.5 n."""
    for dialect, depth in (("PAPER", 3), ("DEEPSEEK_V4", 1)):
        path = tmp_path / f"{dialect}.safetensors"
        done = invoked(
            *("explode", target("grown"), "--threshold", "2.9", "--max-streams", "2", "--json"),
            *("--dialect", dialect, "--save", str(path)),
        )
        assert done.exit_code == 0
        assert json.loads(done.stdout)["depth"] == depth
        assert load(path).request.claimed
        again = replay(path, target=target("grown").removeprefix("target:"))
        assert again.verdict == "FAILED"
        assert again.exact_value == load(path).exact_value
    found = find_minimal(target("turned"), "1.4", dialect="PAPER", iterations=3, max_streams=1)
    assert found.request.dialect.iterations == 3


def test_a_plain_function_without_a_claim_is_refused(target):
    assert "plain function" in refused("explode", target("grown"), "--threshold", "2")


def test_a_dialect_for_what_declares_its_own_is_refused(target):
    for one in (target("Short"), "target:ref:LIGER"):
        assert "dialect is given, and has no effect" in refused(
            "explode", one, "--threshold", "2", "--dialect", "PAPER"
        )


@pytest.mark.parametrize(("name", "dtype"), [("Short", "float32"), ("Shorter", "bfloat16")])
def test_a_target_is_searched_in_a_dtype_that_it_declares(target, tmp_path, name, dtype):
    found = find_minimal(target(name), "3.3", max_streams=2)
    assert (found.depth, found.request.dtype) == (3, dtype)
    path = tmp_path / "x.safetensors"
    assert load(save(found, path).file or "").request.dtype == dtype
    assert replay(path, trust=True).verdict == "FAILED"
    assert f"declares: {dtype}" in refused("explode", target(name), "--threshold", "2", "--dtype", "float64")


def test_a_target_that_declares_float64_is_searched_in_it():
    assert find_minimal("target:ref:PAPER", 1, max_streams=1).request.dtype == "float64"


@pytest.mark.parametrize("name", ["Open", "Mapped"])
def test_an_unconstrained_target_is_refused_without_a_bound(target, name):
    said = refused("explode", target(name), "--threshold", "2")
    assert "declares residual='unconstrained'" in said
    assert "expected entry_bound" in said
    assert "family hc" in said


@pytest.mark.slow
@pytest.mark.parametrize("bound", ["1.25", "1.1"])
def test_an_unconstrained_target_is_searched_within_a_bound(target, tmp_path, bound):
    """What carries its logits through explodes when the closed form says; what halves them later."""
    free = find_minimal("hc", 20, entry_bound=bound, max_streams=2)
    for name, factor in (("Open", 1), ("Halved", 2)):
        path = tmp_path / f"{name}.safetensors"
        done = invoked(
            *("explode", target(name), "--threshold", str(20), "--max-streams", "2", "--entry-bound", bound),
            *("--json", "--save", str(path)),
        )
        answer = json.loads(done.stdout)
        assert answer["depth"] == free.depth if factor == 1 else answer["depth"] > free.depth
        loaded = load(path)
        assert all(abs(entry) <= Fraction(bound) for one in loaded.logits for row in one for entry in row)
        assert replay(path, trust=True).verdict == "FAILED"


def test_a_bound_of_entries_has_no_effect_on_a_projection():
    said = refused("explode", "target:ref:PAPER", "--threshold", "2", "--entry-bound", "1")
    assert "entry_bound is given, and has no effect: ref:PAPER" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Silent", "offers no projection"),
        ("Raises", "project raised ValueError: a \\x1b[31mred error for logits"),
        ("Exits", "project raised SystemExit"),
        ("Skips", "project raised Skipped: not today"),
        ("Interrupts", "project raised KeyboardInterrupt"),
        ("Nothing", "project returned NoneType"),
        ("Wrong", "expected real numbers of shape (1, 2, 2)"),
        ("Complex", "project returned torch.complex64"),
        ("Meta", "on meta"),
        ("Sparse", "torch.sparse_coo"),
        ("missing", "has no attribute 'missing'"),
    ],
)
def test_what_a_target_does_is_said_in_one_sentence(target, name, message):
    said = refused("explode", target(name), "--threshold", "2")
    assert message in said
    assert "some.py" in said


def test_a_target_that_is_not_finite_is_not_found_to_explode(target):
    done = invoked("explode", target("Infinite"), "--threshold", "2", "--max-depth", "2", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["found"] is False


@pytest.mark.slow
def test_a_target_that_hangs_ends_with_the_budget(target):
    done = invoked("explode", target("Hangs"), "--threshold", "2", "--budget", "0.1", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["found"] is False
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_a_target_that_answers_otherwise_when_it_is_asked_again_is_named(target):
    said = refused("explode", target("Alternates"), "--threshold", "2")
    assert "expected an implementation that is deterministic" in said


def test_a_target_that_writes_into_its_logits_changes_none_of_ours(target):
    found = find_minimal(target("Overwrites"), "1.4")
    assert (found.depth, found.value) == (1, 1.5)
    assert all(entry == 0 for one in found.logits for row in one for entry in row)


def test_a_target_that_raises_late_is_named():
    with pytest.raises(TargetError, match="there is no file"):
        find_minimal("target:nowhere.py:x", 2)


# ---- files


def test_places_that_cannot_be_written_are_refused_before_the_search(tmp_path, monkeypatch):
    monkeypatch.setattr(command_module, "find_minimal", lambda *_, **__: pytest.fail("searched"))
    (tmp_path / "file").write_text("")
    for option in ("--save", "--plot"):
        for place in (tmp_path, tmp_path / "file" / "x.png", "", "x\0y", "/proc/nowhere/x.png", "x" * 5000):
            said = refused("explode", "residual", "--threshold", "2", option, str(place))
            assert f"{option} is " in said
            assert "no file can be written" in said


def test_a_picture_that_cannot_be_drawn_is_refused_before_the_search(tmp_path, monkeypatch):
    monkeypatch.setattr(command_module, "find_minimal", lambda *_, **__: pytest.fail("searched"))
    monkeypatch.setattr(command_module, "atlas", lambda *_, **__: pytest.fail("searched"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for question in (["explode", "residual", "--threshold", "2"], ["atlas"]):
        assert "pip install 'mhc-properties[report]'" in refused(*question, "--plot", str(tmp_path / "x.png"))


@pytest.mark.slow
def test_a_format_that_is_not_drawn_is_refused_before_the_search(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(command_module, "find_minimal", lambda *_, **__: pytest.fail("searched"))
    said = refused("explode", "residual", "--threshold", "2", "--plot", str(tmp_path / "x.xyz"))
    assert "x.xyz ends in .xyz, which is neither a page nor a picture that matplotlib draws; expected .html, or" in said
    assert ".svg" in said


def _full(*_):
    raise OSError(28, "No space left on device")


def test_the_result_is_printed_whatever_happens_to_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(command_module, "save", _full)
    question = ["explode", "residual", "--threshold", "4", "--save", str(tmp_path / "x.safetensors")]
    spoken, done = invoked(*question), invoked(*question, "--json")
    assert spoken.exit_code == done.exit_code == 2
    assert spoken.stdout.startswith("residual: forward gain >= 4 at depth 2")
    assert "No space left on device" in spoken.stderr
    printed = json.loads(done.stdout)
    assert (printed["found"], printed["depth"], printed["file"]) == (True, 2, None)
    assert "saved to" not in spoken.output + done.output
    assert list(tmp_path.iterdir()) == []


def test_the_atlas_is_printed_whatever_happens_to_its_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(command_module, "ready", lambda path: None)
    monkeypatch.setattr(command_module, "draw_atlas", _full)
    question = ["atlas", "--deviation", "1", "--max-streams", "1", "--budget", "1e-9"]
    question += ["--plot", str(tmp_path / "x.png")]
    spoken, done = invoked(*question), invoked(*question, "--json")
    assert spoken.exit_code == done.exit_code == 2
    assert "Smallest depth whose gain reaches 100" in spoken.stdout
    assert json.loads(done.stdout)["points"]
    assert "drawn to" not in spoken.output


def test_an_interrupted_search_that_cannot_be_saved_is_still_printed(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("properties.explosion.searches.bounded.smallest_architecture", interrupted)
    monkeypatch.setattr(command_module, "save", _full)
    done = invoked("explode", "residual", "--threshold", "3")
    assert done.exit_code == 130
    assert "stopped by Ctrl-C" in done.stdout
    assert "could not be written" in done.stderr


def test_a_bug_of_ours_is_an_object_too(monkeypatch):
    def broken(*_, **__):
        raise AssertionError("not ours")

    monkeypatch.setattr(command_module, "find_minimal", broken)
    done = invoked("explode", "residual", "--threshold", "2", "--json")
    assert json.loads(done.stdout) == {"error": "AssertionError: not ours", "exit": 3}
    assert isinstance(done.exception, AssertionError)  # which the console command turns into exit 3


# ---- overhead


@pytest.mark.parametrize("device", ["nope", "meta", "cpu:7:7"])
def test_the_overhead_on_a_device_that_is_not_there_is_refused(device):
    app = typer.Typer()
    app.command()(overhead.main)
    done = CliRunner().invoke(app, ["--device", device, "--layers", "1", "--width", "8", "--pairs", "1", "--json"])
    assert done.exit_code == 2
    assert json.loads(done.stdout.splitlines()[-1])["exit"] == 2


def test_the_overhead_leaves_no_files(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    overhead.measured(layers=1, n=2, width=8, tokens=4, batch=1, rounds=1, device="cpu", sampled=4)
    assert list(tmp_path.iterdir()) == []
    assert torch.get_default_device().type == "cpu"
