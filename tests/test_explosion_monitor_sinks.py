"""Where rows go: one run in a file, sinks, what happens at a violation, and the last passes, replayed."""

import csv
import importlib
import io
import json
import sys
from typing import Any

import pytest
import torch
from test_explosion_monitor import GROW, SKEW, TURN, Chain, Mixing
from typer.testing import CliRunner

from properties.cli import app
from properties.explosion import Monitor
from properties.explosion.monitor import ROW_KEYS, MonitorViolation, Thresholds
from properties.explosion.monitor.history import MonitorFileError, replay
from properties.explosion.monitor.sinks import CsvSink, TensorBoardSink, TerminalSink, WandbSink

X = torch.ones(3, 2, 4)


def watched(*matrices, **options):
    model = Chain(*matrices)
    return model, Monitor(model, modules=[Mixing], **options)


def rows_in(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---- runs


def test_every_row_has_the_run_and_a_run_goes_on_in_its_file(tmp_path):
    path = tmp_path / "gains.jsonl"
    for _ in range(2):
        model, monitor = watched(TURN, path=path, run="first")
        with monitor:
            model(X)
    assert [row["run"] for row in rows_in(path)] == ["first", "first"]
    assert [one.name for one in tmp_path.iterdir()] == ["gains.jsonl"]


def test_two_runs_are_not_mixed_in_one_file(tmp_path, caplog):
    path = tmp_path / "gains.jsonl"
    for run in ("first", "second", "second"):
        model, monitor = watched(TURN, path=path, run=run)
        with monitor:
            model(X)
    assert [row["run"] for row in rows_in(path)] == ["first"]
    assert [row["run"] for row in rows_in(tmp_path / "gains.second.jsonl")] == ["second", "second"]
    assert "holds another run, so that this one is in gains.second.jsonl" in caplog.text
    assert monitor.troubles == 0


def test_two_monitors_at_once_do_not_write_to_one_file(tmp_path):
    path = tmp_path / "gains.jsonl"
    (one, first), (two, second) = watched(TURN, path=path), watched(SKEW, path=path)
    with first, second:
        one(X)
        two(X)
    assert [row["run"] for row in rows_in(path)] == [first.run]
    assert [row["run"] for row in rows_in(tmp_path / f"gains.{second.run}.jsonl")] == [second.run]


def test_rows_of_an_older_version_stay_by_themselves(tmp_path):
    path = tmp_path / "gains.jsonl"
    path.write_text('{"schema": 2, "step": 0}\n')
    model, monitor = watched(TURN, path=path)
    with monitor:
        model(X)
    assert path.read_text() == '{"schema": 2, "step": 0}\n'


def test_a_clock_gives_the_step_and_passes_within_it_are_counted():
    step = 0
    model, monitor = watched(TURN, every=2, clock=lambda: step)
    seen = []
    with monitor:
        for step in (4, 4, 5, 6, 6, 6):  # noqa: B007  # the clock reads it
            model(X)
            seen.append((monitor.rows[0]["step"], monitor.rows[0]["forward"]))
    assert seen == [(4, 0), (4, 1), (4, 1), (6, 0), (6, 1), (6, 2)]
    assert monitor.step == 6


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"run": ""}, ValueError, "run is ''"),
        ({"run": "../x"}, ValueError, "run is '../x'"),
        ({"run": 3}, TypeError, "run is 3"),
        ({"sinks": print}, TypeError, "sinks is"),
        ({"sinks": [3]}, TypeError, "sinks has the entry 3"),
        ({"sinks": 3}, TypeError, "sinks is 3"),
        ({"on_violation": "stop"}, ValueError, "on_violation is 'stop'"),
        ({"keep": -1}, ValueError, "keep is -1"),
        ({"keep": 1.5}, TypeError, "keep is 1.5"),
        ({"gradients": "yes"}, TypeError, "gradients is 'yes'"),
        ({"clock": 3}, TypeError, "clock is 3"),
        ({"thresholds": 3}, TypeError, "thresholds is 3"),
        ({"thresholds": {"grow": 3}}, ValueError, "thresholds has grow; expected some of growth"),
        ({"thresholds": {"growth": 0}}, ValueError, "growth is 0"),
        ({"thresholds": {"growth": True}}, ValueError, "growth is True"),
        ({"blocks": "mixings.0"}, TypeError, "expected a list"),
    ],
)
def test_bad_arguments_are_refused_by_name(options, error, message):
    given: dict[str, Any] = {"modules": [Mixing], **options}
    with pytest.raises(error, match=message.replace("(", r"\(")):
        Monitor(Chain(GROW), **given)


# ---- sinks


def test_a_sink_is_called_with_each_row_and_one_that_raises_is_a_trouble(caplog):
    seen = []

    def refuses(step, record):
        raise RuntimeError("on purpose")

    model, monitor = watched(TURN, SKEW, sinks=[lambda step, record: seen.append((step, record["layer"])), refuses])
    with monitor:
        model(X)
        model(X)
    assert seen == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert monitor.troubles == 4
    assert "RuntimeError: on purpose" in caplog.text


def test_a_sink_may_change_its_row_and_run_the_model():
    """As one does that evaluates: what it runs is no pass, of which sinks would be told in turn."""
    seen = []

    def changes(step, record):
        record.clear()

    def runs(step, record):
        model(X)
        seen.append(record["layer"])

    model, monitor = watched(
        GROW,
        SKEW,
        bound=1,
        sinks=[changes, runs],
        on_violation=lambda step, record: model(X),
        clock=lambda: model(X).ndim,
    )
    with monitor:
        model(X)
        model(X)
    assert seen == [0, 1, 0, 1]
    assert monitor.left is not None
    assert (monitor.step, monitor.troubles, monitor.left["leaves"]) == (2, 0, "explode")
    assert [row["step"] for row in monitor.rows] == [3, 3]


def test_a_table_of_comma_separated_values(tmp_path):
    path = tmp_path / "gains.csv"
    model, monitor = watched(TURN, [[1e5, 0.0], [0.0, 1e5]], sinks=[CsvSink(path)])
    with monitor:
        model(X)
        model(X)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == ROW_KEYS
    assert [(row["step"], row["layer"], row["forward_gain"]) for row in rows[:2]] == [
        ("0", "0", "1.0"),
        ("0", "1", "100000.0"),
    ]
    with pytest.raises(FileExistsError):
        CsvSink(path)


def test_a_live_line_is_for_a_terminal_only():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        model, monitor = watched(TURN, GROW, sinks=[TerminalSink(stream)])
        with monitor:
            model(X)
            model(X)
        text = stream.getvalue()
        assert bool(text) == shown
        assert ("step 1: forward gain 1.25 (mixings.1)" in text) == shown


@pytest.mark.slow  # imports a library
def test_curves_for_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    model, monitor = watched(TURN, GROW, sinks=[TensorBoardSink(tmp_path)])
    with monitor:
        model(X)
        model(X)
    events = reader.EventAccumulator(str(tmp_path)).Reload()
    curve = events.Scalars("forward_gain/001 mixings.1")
    assert [(one.step, one.value) for one in curve] == [(0, 1.25), (1, 1.25)]


def test_runs_of_wandb_get_the_curves():
    class Run:
        logged: list[Any] = []  # noqa: RUF012

        def log(self, record):
            self.logged.append(record)

        def finish(self):
            raise AssertionError("somebody else's run is not ended")

    model, monitor = watched(GROW, sinks=[WandbSink(Run())])
    with monitor:
        model(X)
    ((record,), trouble) = Run.logged, monitor.troubles
    assert (record["forward_gain/000 mixings.0"], record["monitor/step"], trouble) == (1.25, 0, 0)


@pytest.mark.slow  # imports a library, and starts its process
def test_wandb_keeps_a_run_offline(tmp_path):
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    model, monitor = watched(GROW, sinks=[WandbSink(project="monitor", dir=str(tmp_path))])
    with monitor:
        model(X)
    assert monitor.troubles == 0
    assert list(tmp_path.rglob("offline-run-*"))


@pytest.mark.parametrize(("sink", "name"), [(TensorBoardSink, "tensorboard"), (WandbSink, "wandb")])
def test_a_library_that_is_missing_is_said_with_its_extra(sink, name, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=rf"pip install 'mhc-properties\[{name}\]'"):
        sink(tmp_path) if sink is TensorBoardSink else sink()


# ---- violations


def test_a_violation_raises_where_that_is_asked_for(tmp_path):
    model, monitor = watched(TURN, GROW, bound=1.2, on_violation="raise", path=tmp_path / "gains.jsonl")
    with pytest.raises(MonitorViolation, match=r"layer 1 \(mixings.1\) leaves its bound") as raised, monitor:
        model(X)
    assert (raised.value.kind, raised.value.row["layer"]) == ("explode", 1)
    assert raised.value.file == tmp_path / f"gains-{monitor.run}-0.safetensors"
    assert [row["layer"] for row in rows_in(tmp_path / "gains.jsonl")] == [0, 1]
    assert (monitor.troubles, len(model._forward_hooks)) == (0, 0)


def test_a_violation_calls_a_function_once_for_each_kind(caplog):
    called = []
    model, monitor = watched(GROW, GROW, bound=1.2, on_violation=lambda step, row: called.append((step, row["layer"])))
    with monitor:
        model(X)
        model(X)
    assert called == [(0, 0)]
    model, monitor = watched(GROW, bound=1.2, on_violation=lambda: None)
    with monitor:
        assert torch.equal(model(X), torch.tensor(GROW) @ X)
    assert monitor.troubles == 1
    assert "on_violation raised: TypeError" in caplog.text


def test_the_last_passes_are_saved_and_their_mixing_is_computed_again(tmp_path):
    model, monitor = watched(TURN, SKEW, bound=1.3, keep=2, path=tmp_path / "gains.jsonl")
    with monitor:
        for step in range(4):
            if step == 3:
                model.mixings[1].load_state_dict({"matrix": 2 * torch.tensor(SKEW)})
            model(X)
    (path,) = monitor.saved
    assert path.name == f"gains-{monitor.run}-3.safetensors"
    found = replay(path)
    assert found.verdict == "FAILED"
    assert [len(rows) for rows in found.passes] == [2, 2]
    assert found.passes[-1][1]["forward_gain"] == monitor.rows[1]["forward_gain"]
    assert "step 3: layer 1 (mixings.1) explodes" in found.message
    result = CliRunner().invoke(app, ["replay", str(path)])
    assert result.exit_code == 1
    assert result.stdout.startswith("FAILED monitor\nstep 3: layer 1")
    result = CliRunner().invoke(app, ["replay", str(path), "--dialect", "PAPER"])
    assert (result.exit_code, "leave it out" in result.stdout) == (2, True)


def test_nothing_is_saved_where_no_place_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, monitor = watched(GROW, bound=1.2)
    with monitor:
        model(X)
    assert (monitor.saved, list(tmp_path.iterdir())) == ([], [])
    model, monitor = watched(GROW, bound=1.2, save=tmp_path / "bad", run="a")
    with monitor:
        model(X)
    assert [one.name for one in tmp_path.iterdir()] == ["bad-a-0.safetensors"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: {**header, "schema": 9}, "schema is 9"),
        (lambda header: {**header, "passes": 3}, "passes is 3"),
        (lambda header: {**header, "passes": [{"rows": [], "layers": [3], "complete": True}]}, "damaged"),
        (lambda header: [], "expected an object"),
    ],
)
def test_a_file_that_is_none_is_refused_in_a_sentence(change, message, tmp_path):
    from properties.guards import sealed

    model, monitor = watched(GROW, bound=1.2, save=tmp_path / "bad", run="a")
    with monitor:
        model(X)
    found = sealed.read(monitor.saved[0])
    header = change(json.loads(found.metadata["monitor"]))
    sealed.write(tmp_path / "other", {"monitor": json.dumps(header)}, found.tensors)
    with pytest.raises(MonitorFileError, match=message):
        replay(tmp_path / "other")
    result = CliRunner().invoke(app, ["replay", str(tmp_path / "other")])
    assert result.exit_code == 2


def test_a_file_whose_matrices_were_changed_no_longer_says_what_its_rows_do(tmp_path):
    from properties.guards import sealed

    model, monitor = watched(GROW, bound=1.2, save=tmp_path / "bad", run="a")
    with monitor:
        model(X)
    found = sealed.read(monitor.saved[0])
    halved = {name: tensor / 2 for name, tensor in found.tensors.items()}
    sealed.write(tmp_path / "other", {"monitor": found.metadata["monitor"]}, halved)
    again = replay(tmp_path / "other")
    assert (again.verdict, "forward_gain was 1.25, and is 0.625 now" in again.message) == ("FIXED", True)


# ---- thresholds


def test_thresholds_can_be_set_and_switched_off(caplog):
    for given, expected in (({"growth": 2.0}, ["grows"]), (Thresholds(growth=3.0), []), (False, []), (None, [])):
        model, monitor = watched([[2.5, 0.0], [0.0, 2.5]], TURN, thresholds=given)
        with monitor:
            model(X)
        assert monitor.rows[1]["alarms"] == expected
        assert list(monitor.departures) == expected
    assert caplog.text.count("have grown 2.5 times") == 1
