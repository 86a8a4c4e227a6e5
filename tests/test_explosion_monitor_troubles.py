"""A monitor never breaks what it watches: its own troubles are said once and counted, and no number is wrong."""

import contextlib
import copy
import dataclasses
import io
import json
import logging
import os
import pickle
import re
import subprocess
import sys
import threading
from collections import OrderedDict
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from test_explosion_monitor import GROW, SKEW, TURN, Chain, Mixing
from torch import nn

from mhc_ref import PAPER
from properties.explosion import Monitor
from properties.explosion.monitor.emissions import KNOWN
from properties.explosion.monitor.gains_file import GainsFile
from properties.explosion.overhead import Decoder, HyperConnection

X = torch.ones(3, 2, 4)


def shown(monitor):
    return [(row["layer"], row["forward_gain"]) for row in monitor.rows]


def lines(path):
    text = path.read_text()
    assert not text or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


# ---- arguments


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"modules": None}, ValueError, "Chain has no hyper-connections"),
        ({"modules": ["mixings.7"]}, ValueError, "modules names mixings.7, which is not there"),
        ({"modules": ["mixings.0", "mixings.7"]}, ValueError, "modules names mixings.7, which is not there"),
        ({"modules": [Mixing, nn.Linear]}, ValueError, "modules names Linear"),
        ({"modules": ["chain.mixings.0"]}, ValueError, "is it 'mixings.0'?"),
        ({"modules": []}, ValueError, "modules is empty"),
        ({"blocks": []}, ValueError, "blocks is empty; expected at least one name or class of residual blocks"),
        ({"blocks": 3}, TypeError, "blocks is 3"),
        ({"blocks": [Mixing, nn.GRU]}, ValueError, "Name them: Monitor(model, blocks=[MyBlock])"),
        ({"modules": "mixings.0"}, TypeError, "modules is 'mixings.0'; expected a list"),
        ({"modules": b"mixings.0"}, TypeError, "expected a list"),
        ({"modules": Mixing}, TypeError, "modules is the class Mixing; expected a list"),
        ({"modules": Mixing(GROW)}, TypeError, "modules is the module Mixing"),
        ({"modules": 3}, TypeError, "modules is 3"),
        ({"modules": [3]}, TypeError, "modules has the entry 3"),
        ({"modules": [int]}, TypeError, "class int"),
        ({"modules": [Mixing(GROW)]}, TypeError, "module Mixing"),
        ({"modules": lambda name, module: False}, ValueError, "predicate"),
        ({"modules": lambda name: True}, ValueError, "predicate `modules` raised TypeError"),
        ({"every": 0}, ValueError, "every is 0"),
        ({"every": float("nan")}, TypeError, "every is nan; expected a whole number"),
        ({"every": 1.0}, TypeError, "every is 1.0"),
        ({"every": True}, TypeError, "every is True"),
        ({"every": "2"}, TypeError, "every is '2'"),
        ({"tokens": 0}, ValueError, "tokens is 0"),
        ({"tokens": -5}, ValueError, "tokens is -5"),
        ({"tokens": 0.5}, TypeError, "tokens is 0.5"),
        ({"tokens": True}, TypeError, "tokens is True"),
        ({"tokens": None}, TypeError, "tokens is None"),
        ({"transposed": "no"}, TypeError, "transposed is 'no'; expected True, False"),
        ({"transposed": 1}, TypeError, "transposed is 1"),
        ({"dialect": "paper"}, ValueError, "dialect is 'paper'; expected a Dialect, or one of the presets PAPER"),
        ({"dialect": 5}, TypeError, "dialect is 5"),
        ({"bound": "x"}, TypeError, "bound is 'x'; expected a gain"),
        ({"bound": float("nan")}, ValueError, "bound is nan"),
        ({"bound": float("inf")}, ValueError, "bound is inf"),
        ({"bound": -1.0}, ValueError, "bound is -1"),
        ({"bound": 0}, ValueError, "bound is 0"),
        ({"bound": 10**400}, ValueError, "expected a finite gain"),
        ({"bound": True}, TypeError, "bound is True"),
        ({"bound": torch.ones(())}, TypeError, "bound is tensor"),
        ({"floor": -1}, ValueError, "floor is -1"),
        ({"floor": 3.0, "bound": 2.0}, ValueError, "expected a floor of at most the bound"),
        ({"operator": "res"}, TypeError, "operator is 'res'; expected a function"),
        ({"operator": 1}, TypeError, "operator is 1"),
        ({"streams": nn.Identity()}, TypeError, "streams is Identity"),
        ({"path": 3}, TypeError, "path is 3"),
        ({"path": b"x"}, TypeError, "path is b'x'"),
        ({"path": ""}, ValueError, "path is ''"),
        ({"path": "x\0y"}, ValueError, "expected the path of a file"),
        ({"path": "."}, ValueError, "a folder; expected a file, such as"),
    ],
)
def test_bad_arguments_are_refused_by_name(options, error, message):
    given: dict[str, Any] = {"modules": [Mixing], **options}
    with pytest.raises(error, match=re.escape(message)):
        Monitor(Chain(GROW), **given)


@pytest.mark.parametrize("model", [lambda x: x, Chain, "gains.jsonl", 3, [Chain(GROW)]])
def test_what_is_no_module_is_refused(model):
    with pytest.raises(TypeError, match=r"model is [\s\S]*; expected a torch.nn.Module"):
        Monitor(model)


def test_a_path_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is no folder"):
        Monitor(path=tmp_path / "file" / "gains.jsonl")


def test_options_that_can_have_no_effect_are_refused():
    idle: list[dict[str, Any]] = [{"modules": [Mixing]}, {"operator": len}, {"streams": len}]
    for options in idle:
        with pytest.raises(ValueError, match="given without a model"):
            Monitor(**options)


def test_numbers_of_other_libraries_and_names_of_presets_are_read():
    options: dict[str, Any] = {"modules": (one for one in [Mixing]), "every": np.int64(2), "bound": Fraction(3, 2)}
    monitor = Monitor(Chain(GROW), **options, dialect="PAPER")
    assert (monitor._every, monitor._bound, monitor._recorder.reading.dialect) == (2, 1.5, PAPER)


def test_every_counts_passes_by_hand_too():
    monitor = Monitor(every=3)
    recorded = []
    for _ in range(7):
        monitor.record(torch.eye(2)[None])
        recorded.append([row["step"] for row in monitor.flush()])
    assert recorded == [[0], [], [], [3], [], [], [6]]


# ---- the model


@dataclasses.dataclass
class Emitted:
    post: torch.Tensor
    res: torch.Tensor


@dataclasses.dataclass
class Renamed:
    weight: torch.Tensor
    mixing: torch.Tensor


class Emitting(nn.Module):
    """Hands h_res on in some form."""

    def __init__(self, form):
        super().__init__()
        self.mix = Mixing(SKEW)
        self.form = form

    def forward(self, x):
        return self.form(self.mix(x))


@pytest.mark.parametrize(
    "form",
    [
        lambda h: h,
        lambda h: (h[..., 0], h),
        lambda h: [h, None, "text"],
        lambda h: {"res": h},
        lambda h: OrderedDict(a=h, b=h[..., 0]),
        lambda h: Emitted(h[..., 0], h),
        lambda h: Renamed(h[..., 0], h),
    ],
)
def test_outputs_of_many_forms_are_read(form):
    model = Emitting(form)
    with Monitor(nn.Sequential(model), modules=[Emitting]) as monitor:
        nn.Sequential(model)[0](X)
        assert monitor._model is not None
        monitor._model(X)
    assert [row["layer_forward_gain"] for row in monitor.rows] == [1]
    assert monitor.troubles == 0


def _raising(*_):
    raise RuntimeError("on purpose")


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (lambda h: None, "NoneType with tensors of shapes []"),
        (lambda h: "text", "str with tensors"),
        (lambda h: object(), "object with tensors"),
        (lambda h: (h, h), "exactly one [..., n, n]"),
        (lambda h: ((h,),), "tuple with tensors of shapes []"),
        (lambda h: h.to(torch.complex64), "is torch.complex64; expected real numbers"),
        (lambda h: h.to_sparse(), "layout torch.sparse_coo"),
        (lambda h: h.to("meta"), "on the device meta"),
        (lambda h: iter([h]), "list_iterator with"),
    ],
)
def test_what_is_not_understood_is_said_once_and_the_model_runs_on(form, message, caplog):
    model = nn.Sequential(Emitting(form))
    with Monitor(model, modules=[Emitting]) as monitor:
        for _ in range(3):
            model(X)
    assert (monitor.troubles, monitor.rows, monitor.step) == (3, [], 3)
    assert len(caplog.records) == 1
    assert message in caplog.text


@pytest.mark.parametrize("option", ["operator", "streams"])
def test_a_function_of_the_user_that_raises_is_a_trouble(option, caplog):
    model = Chain(SKEW, SKEW)
    options: dict[str, Any] = {option: _raising}
    with Monitor(model, modules=[Mixing], **options) as monitor:
        out = model(X)
    assert torch.equal(out, model(X))
    assert monitor.troubles == 2
    assert "RuntimeError: on purpose" in caplog.text
    if option == "streams":
        assert shown(monitor) == [(0, 1), (1, 1)]
        assert [row["activation_max"] for row in monitor.rows] == [None, None]


def test_a_pass_in_which_a_layer_was_missed_has_no_composite():
    """The product of the others is not the model's."""
    model = Chain(GROW, GROW, GROW)
    calls = iter(range(3))

    def second_fails(out):
        if next(calls) == 1:
            raise RuntimeError
        return out

    with Monitor(model, modules=[Mixing], operator=second_fails) as monitor:
        model(X)
    assert shown(monitor) == [(0, None), (1, None)]
    assert [row["layer_forward_gain"] for row in monitor.rows] == [1.25, 1.25]
    assert monitor.rows[0]["backward_gain"] is None


def test_an_operator_that_calls_the_model_does_not_record_itself():
    model = Chain(SKEW)
    with Monitor(model, modules=[Mixing], operator=lambda out: model.mixings[0](X)) as monitor:
        model(X)
    assert shown(monitor) == [(0, 1)]


def test_a_pass_without_tokens_has_rows_without_gains():
    for dialect in (None, PAPER):
        model = Chain(SKEW, SKEW)
        with Monitor(model, modules=[Mixing], dialect=dialect) as monitor:
            assert model(X[:0]).shape == (0, 2, 4)
        assert [(row["tokens"], row["forward_gain"], row["within"]) for row in monitor.rows] == [(0, None, None)] * 2
        assert monitor.troubles == 0


def test_a_pass_that_ends_in_an_exception_is_no_pass():
    class Stopping(Chain):
        stop = True

        def forward(self, x):
            x = self.mixings[0](x) @ x
            if self.stop:
                raise KeyError("halfway")
            return self.mixings[1](x) @ x

    model = Stopping(GROW, GROW)
    with Monitor(model, modules=[Mixing]) as monitor:
        with pytest.raises(KeyError):
            model(X)
        model.mixings[0](X)  # outside of any pass
        model.stop = False
        try:
            raise ValueError("another")
        except ValueError:
            model(X)  # while an exception is handled
    assert shown(monitor) == [(0, 1.25), (1, 1.5625)]
    assert (monitor.step, monitor.troubles) == (1, 0)


def test_a_pass_that_ends_in_ctrl_c_is_forgotten():
    """Nobody tells hooks of it; what is recomputed later must not be added to it."""

    class Stopping(Chain):
        stop = True

        def forward(self, x):
            x = self.mixings[0](x) @ x
            if self.stop:
                raise KeyboardInterrupt
            return self.mixings[1](x) @ x

    model = Stopping(GROW, GROW)
    with Monitor(model, modules=[Mixing]) as monitor:
        for stop in (True, True, False, True, False):
            model.stop = stop
            with contextlib.suppress(KeyboardInterrupt):
                model(X)
        assert monitor._recorder.running.passes == []
    assert shown(monitor) == [(0, 1.25), (1, 1.5625)]
    assert (monitor.step, monitor.troubles) == (2, 0)


def test_a_name_that_is_none_is_said(caplog):
    class Unnamed:
        def __str__(self):
            raise RuntimeError("nameless")

    monitor = Monitor()
    for name in (5, Unnamed()):
        monitor.record(torch.eye(2)[None], name=name)  # pyright: ignore[reportArgumentType]
    assert [row["name"] for row in monitor.flush()] == ["5", "layer 1"]
    assert "nameless" in caplog.text


def test_a_model_that_calls_itself_has_the_rows_of_each_of_its_passes():
    class Nested(Chain):
        def forward(self, x, again=True):
            x = self.mixings[0](x) @ x
            if again:
                self(x, again=False)
            return self.mixings[1](x) @ x

    passes = []
    model = Nested(TURN, GROW)
    with Monitor(model, modules=[Mixing]) as monitor:
        model.register_forward_hook(lambda *_: passes.append(shown(monitor)))
        model(X)
    assert passes == [[(0, 1), (1, 1.25)]] * 2
    assert monitor.step == 2


def test_a_module_that_writes_into_its_input_and_output_changes_no_number():
    class Writing(nn.Module):
        def forward(self, x):
            x.zero_()
            return torch.eye(2, dtype=torch.float64).repeat(len(x), 1, 1)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = Writing()

        def forward(self, x):
            h_res = self.mix(x.clone())
            h_res.mul_(5)
            return h_res

    model = Model()
    with Monitor(model, modules=[Writing]) as monitor:
        model(3 * X.double())
    assert (monitor.rows[0]["forward_gain"], monitor.rows[0]["activation_max"]) == (1, 3)


def test_streams_that_are_passed_by_name_are_seen():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = Mixing(SKEW)

        def forward(self, x):
            return self.mix(x=x)

    model = Model()
    with Monitor(model, modules=[Mixing]) as monitor:
        model(7 * X)
    assert monitor.rows[0]["activation_max"] == 7


def test_entering_twice_records_once_and_leaving_without_entering_is_nothing(caplog):
    model = Chain(GROW)
    monitor = Monitor(model, modules=[Mixing])
    monitor.__exit__(None, None, None)
    assert monitor.troubles == 0
    with monitor, monitor:
        model(X)
    assert (len(monitor.rows), monitor.troubles, len(model._forward_hooks)) == (1, 1, 0)
    assert "entered a second time" in caplog.text
    with monitor:
        model(X)
    assert monitor.step == 2


def test_two_monitors_of_one_model_see_the_same_and_leave_in_any_order():
    model = Chain(GROW)
    first, second = (Monitor(model, modules=[Mixing]) for _ in range(2))
    first.__enter__()
    second.__enter__()
    model(X)
    assert [row | {"run": None} for row in first.rows] == [row | {"run": None} for row in second.rows]
    first.__exit__(None, None, None)
    model(X)
    second.__exit__(None, None, None)
    assert (first.step, second.step) == (1, 2)
    assert not model._forward_hooks
    assert not model.mixings[0]._forward_pre_hooks


def test_threads_have_passes_of_their_own(tmp_path):
    model, rounds = Chain(GROW, GROW, GROW), 25
    with Monitor(model, tmp_path / "x.jsonl", modules=[Mixing]) as monitor:
        threads = [threading.Thread(target=lambda: [model(X) for _ in range(rounds)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    rows = lines(tmp_path / "x.jsonl")
    assert [(row["step"], row["layer"]) for row in rows] == [(step, layer) for step in range(100) for layer in range(3)]
    assert [row["forward_gain"] for row in rows] == [1.25, 1.25**2, 1.25**3] * 100
    assert monitor.troubles == 0


def test_layers_recorded_by_hand_in_two_threads_have_no_composite(caplog):
    monitor = Monitor()
    monitor.record(torch.eye(2)[None])
    thread = threading.Thread(target=lambda: monitor.record(torch.eye(2)[None]))
    thread.start()
    thread.join()
    assert [row["forward_gain"] for row in monitor.flush()] == [None, None]
    assert "in two threads" in caplog.text
    monitor.record(torch.eye(2)[None])
    assert [row["forward_gain"] for row in monitor.flush()] == [1]


def test_hooks_that_somebody_removes_are_missed():
    for victim in ("module", "model"):
        model = Chain(GROW, GROW)
        with Monitor(model, modules=[Mixing]) as monitor:
            model(X)
            (model.mixings[1] if victim == "module" else model)._forward_hooks.clear()
            model(X)
        assert monitor.troubles >= 1
        assert (shown(monitor) == [(0, None)]) == (victim == "module")


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "save"])
def test_a_copy_of_a_watched_model_is_a_model_that_nobody_watches(how):
    model = Chain(GROW, GROW)
    with Monitor(model, modules=[Mixing]) as monitor:
        if how == "deepcopy":
            other = copy.deepcopy(model)
        elif how == "pickle":
            other = pickle.loads(pickle.dumps(model))
            assert b"properties" not in pickle.dumps(model)
        else:
            buffer = io.BytesIO()
            torch.save(model, buffer)
            other = torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
        assert torch.equal(other(X), GROW_TWICE @ X)
        assert monitor.step == 0
        model(X)
        assert monitor.step == 1


GROW_TWICE = torch.tensor(GROW) @ torch.tensor(GROW)


class Keeping(nn.Module):
    """A model that keeps its monitor and its watched projection."""

    def __init__(self):
        super().__init__()
        self.monitor = Monitor()
        self.project = self.monitor.watch(torch.exp, name="exp")

    def forward(self, x):
        return self.project(x)


def test_a_model_that_keeps_its_monitor_can_be_copied():
    model = Keeping()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(torch.zeros(1, 2, 2)), torch.ones(1, 2, 2))
        assert other.monitor.flush() == []
    model(torch.zeros(1, 2, 2))
    assert [row["name"] for row in model.monitor.flush()] == ["exp"]


class Constrained(nn.Module):
    """Keeps its projection as a method of its class."""

    num_residual_streams = 2

    def residual_mix_constraint_fn(self, logits):
        return logits.softmax(-1)

    def forward(self, x):
        return self.residual_mix_constraint_fn(torch.zeros(len(x) // 2, 2, 2))


def constrained():
    """Known by the name of its class."""
    return type("ManifoldConstrainedHyperConnections", (Constrained,), {})()


def test_a_watched_function_is_put_back_where_it_was():
    model = nn.Sequential(constrained())
    with Monitor(model) as monitor:
        model(torch.ones(4, 3))
    assert [row["layer_forward_gain"] for row in monitor.rows] == [1]
    assert [row["activation_max"] for row in monitor.rows] == [1]
    assert "residual_mix_constraint_fn" not in vars(model[0])
    with Monitor(model) as monitor:
        wrapped: Any = model[0].residual_mix_constraint_fn
        model[0].__dict__["residual_mix_constraint_fn"] = lambda logits: 1 * wrapped(logits)
    model(torch.ones(4, 3))
    assert monitor.step == 0


def _run(call, model=None):
    model = model or Chain(GROW, GROW)
    with Monitor(model, modules=[Mixing]) as monitor:
        call(model)
    return shown(monitor), monitor.troubles > 0


SEEN, MISSED = ([(0, 1.25), (1, 1.5625)], False), ([], True)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_of_a_model_whose_function_is_watched_calls_the_function(how, monkeypatch):
    monkeypatch.setitem(KNOWN, "Constrained", KNOWN["ManifoldConstrainedHyperConnections"])
    model = nn.Sequential(Constrained())
    with Monitor(model) as monitor:
        other = how(model)
        assert b"properties.explosion" not in pickle.dumps(model)
        assert torch.equal(other(torch.ones(4, 3)), torch.full((2, 2, 2), 0.5))
        assert monitor.step == 0
    assert torch.equal(other(torch.ones(4, 3)), torch.full((2, 2, 2), 0.5))


@pytest.mark.slow
def test_a_watched_function_is_seen_in_compiled_code(monkeypatch):
    monkeypatch.setitem(KNOWN, "Constrained", KNOWN["ManifoldConstrainedHyperConnections"])
    torch._dynamo.reset()
    model = nn.Sequential(Constrained())
    with Monitor(model) as monitor:
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert torch.equal(compiled(torch.ones(4, 3)), torch.full((2, 2, 2), 0.5))
    assert [(row["name"], row["forward_gain"]) for row in monitor.rows] == [("0", 1)]
    assert monitor.troubles == 0


@pytest.mark.slow
def test_a_model_that_is_called_in_other_ways_runs_on():
    """Under vmap and on meta there are no numbers; gradients and functional calls have them."""
    assert _run(lambda model: torch.func.vmap(model)(torch.ones(5, 3, 2, 4))) == MISSED
    assert _run(lambda model: torch.func.grad(lambda x: model(x).sum())(X)) == SEEN
    assert _run(lambda model: torch.func.functional_call(model, dict(model.named_parameters()), (X,))) == SEEN
    with torch.inference_mode():
        assert _run(lambda model: model(X)) == SEEN
    with torch.autocast("cpu", torch.bfloat16):
        assert _run(lambda model: model(X)) == SEEN
    assert _run(lambda model: model(X.to("meta")), Chain(GROW, GROW).to("meta")) == MISSED


@pytest.mark.slow  # these import much of torch
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_model_that_is_called_in_rare_ways_runs_on():
    from torch._subclasses import FakeTensorMode

    assert _run(lambda model: torch.func.jvp(model, (X,), (X,))) == SEEN
    with FakeTensorMode():
        assert _run(lambda model: model(torch.ones(3, 2, 4)), Chain(GROW, GROW)) == MISSED


@pytest.mark.slow
@pytest.mark.parametrize("watched", ["before", "after"])
@pytest.mark.parametrize("whole", [True, False])
def test_what_is_compiled_runs_on_and_is_seen(watched, whole):
    torch._dynamo.reset()
    model = Chain(GROW, GROW)
    compiled = torch.compile(model, backend="eager", fullgraph=whole)
    if watched == "after":
        compiled(X)
    with Monitor(model, modules=[Mixing]) as monitor:
        for _ in range(2):
            assert torch.equal(compiled(X), GROW_TWICE @ X)
    assert shown(monitor) == [(0, 1.25), (1, 1.5625)]
    assert [row["activation_max"] for row in monitor.rows] == [1, 1.25]
    assert (monitor.step, monitor.troubles) == (2, 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_trace_has_nothing_of_the_monitor():
    model = Chain(GROW, GROW)
    plain = str(torch.export.export(model, (X,)).graph)
    with Monitor(model, modules=[Mixing]) as monitor:
        watched = str(torch.export.export(model, (X,)).graph)
        torch.jit.trace(model, (X,), check_trace=False)
    assert watched == plain
    assert monitor.troubles == 1


def test_a_logger_that_raises_ends_nothing():
    def refuse(record):
        raise RuntimeError

    logger = logging.getLogger("properties.monitor")
    logger.addFilter(refuse)
    try:
        model = Chain(GROW)
        with Monitor(model, modules=[Mixing], bound=1.1, operator=None) as monitor:
            model(X)
    finally:
        logger.removeFilter(refuse)
    assert monitor.left is not None


@pytest.mark.slow
def test_nothing_of_a_pass_is_kept_after_it():
    """Neither activations nor operators: only rows."""
    import gc
    import weakref

    kept = []

    class Noting(nn.Module):
        def forward(self, x):
            h_res = torch.eye(2, dtype=torch.float64).repeat(len(x), 1, 1)
            kept.extend((weakref.ref(x), weakref.ref(h_res)))
            return h_res

    model = nn.Sequential(Noting())
    with Monitor(model, modules=[Noting]):
        model(torch.ones(3, 2, 4))
        gc.collect()
        assert [one() for one in kept] == [None, None]


# ---- the file


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        ("", ""),
        ('{"schema": 2, "step": 0}\n', '{"schema": 2, "step": 0}\n'),
        ('{"schema": 2, "step": 0}', '{"schema": 2, "step": 0}\n'),
        ('{"schema": 2, "step": 0}\n{"schema": 2, "st', '{"schema": 2, "step": 0}\n'),
        ('{"schema": 2, "step": 0}\n{"s', '{"schema": 2, "step": 0}\n'),
        ('{"step": 0, "training": tr', ""),
        ("somebody's notes", "somebody's notes\n"),
        ("x" * (1 << 21), "x" * (1 << 21) + "\n"),
    ],
)
def test_a_torn_last_line_is_mended_before_a_row_is_appended(tmp_path, before, kept):
    """What is the beginning of a row of ours is cut off; anything else is somebody's, and gets an end."""
    path = tmp_path / "gains.jsonl"
    path.write_text(before)
    file = GainsFile(path)
    file.append({"step": 7})
    file.close()
    assert path.read_text() == kept + '{"step": 7}\n'


def test_a_write_that_fails_leaves_no_part_of_a_row(tmp_path, monkeypatch):
    path = tmp_path / "gains.jsonl"
    file = GainsFile(path)
    file.append({"step": 0})
    write = os.write

    def full(handle, data):
        monkeypatch.setattr(os, "write", _full)
        return write(handle, data[:5])

    def _full(handle, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        file.append({"step": 1})
    monkeypatch.undo()
    file.append({"step": 2})
    file.close()
    assert lines(path) == [{"step": 0}, {"step": 2}]


PROGRAM = """
import resource, sys, torch
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[2])
from test_explosion_monitor import Chain, GROW, Mixing
from properties.explosion import Monitor
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
model = Chain(GROW, GROW)
with Monitor(model, sys.argv[1], modules=[Mixing]) as monitor:
    for _ in range(10):
        model(torch.ones(3, 2, 4))
print(monitor.step, len(monitor.rows), monitor.troubles)
"""


@pytest.mark.slow  # a process of its own
def test_a_disk_that_is_full_ends_no_training(tmp_path):
    path = tmp_path / "gains.jsonl"
    tests = os.path.dirname(__file__)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), tests], capture_output=True, text=True, check=True, timeout=120
    )
    kept = lines(path)
    assert 0 < len(kept) < 20
    assert done.stdout.split() == ["10", "2", str(20 - len(kept))]
    assert done.stderr.count("cannot be written") == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_device_without_room_ends_no_training(caplog):
    model = Chain(GROW)
    with Monitor(model, "/dev/full", modules=[Mixing]) as monitor:
        model(X)
        model(X)
    assert (monitor.step, monitor.troubles) == (2, 2)
    assert caplog.text.count("cannot be written") == 1


def test_a_path_that_cannot_be_opened_ends_no_training(tmp_path, caplog):
    model = Chain(GROW)
    monitor = Monitor(model, tmp_path / "folder" / "gains.jsonl", modules=[Mixing])
    (tmp_path / "folder").write_text("in the way")
    with monitor:
        model(X)
    assert len(monitor.rows) == 1
    assert monitor.troubles >= 1
    assert "cannot be opened" in caplog.text


def test_a_file_that_is_removed_is_said(tmp_path, caplog):
    path = tmp_path / "gains.jsonl"
    model = Chain(GROW)
    with Monitor(model, path, modules=[Mixing]) as monitor:
        model(X)
        path.unlink()
    assert monitor.troubles == 1
    assert "was removed" in caplog.text


def test_rows_that_were_never_written_are_said(tmp_path, caplog):
    monitor = Monitor(path=tmp_path / "gains.jsonl")
    monitor.record(torch.eye(2)[None])
    monitor.flush()
    assert "is not open" in caplog.text
    assert monitor.troubles == 1


def test_names_of_layers_reach_the_terminal_without_escape_sequences(caplog):
    monitor = Monitor(bound=1.1)
    monitor.record(2 * torch.eye(2)[None], name="\x1b[31mred")
    monitor.flush()
    assert "\x1b" not in caplog.text
    assert "\\x1b[31mred" in caplog.text
    caplog.clear()
    model = torch.nn.Sequential()
    for place in range(3):
        block = torch.nn.Linear(2, 2, bias=False)
        torch.nn.init.constant_(block.weight, 1e4)
        model.add_module(f"\x1b[31m{place}", block)
    with Monitor(model, blocks=[torch.nn.Linear]):
        model(torch.ones(1, 2))
    assert "most of it at layer 0 (\\x1b[31m0)" in caplog.text
    assert "\x1b" not in caplog.text


def test_a_watched_training_takes_the_same_steps():
    """Bit by bit, with gates, checkpoints and a monitor that has troubles of its own."""

    def trained(watch):
        torch.manual_seed(0)
        model = Decoder(layers=1, n=4, width=8)
        options: dict[str, Any] = {"operator": _raising} if watch == "troubled" else {"dialect": PAPER}
        monitor = Monitor(model, modules=[HyperConnection], **options)
        if watch:
            monitor.__enter__()
        for _ in range(2):
            loss = model(torch.randn(2, 5, 8)).square().sum()
            slopes = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for parameter, slope in zip(model.parameters(), slopes, strict=True):
                    parameter -= 0.1 * slope
        monitor.__exit__(None, None, None)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    assert torch.equal(trained(""), trained("watched"))
    assert torch.equal(trained(""), trained("troubled"))


def test_a_pass_of_an_empty_batch_has_no_rows_and_is_no_trouble(caplog):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    with Monitor(model, blocks=[nn.Linear]) as monitor:
        model(torch.randn(0, 3, 8))
        model(torch.randn(0, 3, 8))
        model(torch.randn(2, 3, 8))
    assert (monitor.troubles, monitor.step, {row["step"] for row in monitor.rows}) == (0, 3, {2})
    assert [record.getMessage() for record in caplog.records] == [
        "a pass has no rows, for no layer was given a token, as of an empty batch. The model runs on"
    ]
