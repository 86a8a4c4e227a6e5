"""`Monitor`: what sees the passes of a model, and has their layers recorded."""

from __future__ import annotations

import sys
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from mhc_ref import Dialect
from properties.explosion.monitor import arguments as read
from properties.explosion.monitor.births import Births, Course, finite_flag
from properties.explosion.monitor.blocks import layers_of
from properties.explosion.monitor.compiled import forget
from properties.explosion.monitor.emissions import Chooser
from properties.explosion.monitor.findings import Findings, born
from properties.explosion.monitor.history import Kept
from properties.explosion.monitor.hooks import Attached, Hook, Watched
from properties.explosion.monitor.passes import Pass, calls, recomputing
from properties.explosion.monitor.ranks import together
from properties.explosion.monitor.recorder import Reading, Recorder
from properties.explosion.monitor.report import Report
from properties.explosion.monitor.rows import dtype_of, rows_of
from properties.explosion.monitor.thresholds import Thresholds, thresholds_of
from properties.explosion.monitor.troubles import Troubles


class Monitor(Findings):
    """Records every residual layer of a model, one JSON line per layer and pass, and warns of those that go wrong.

    Columns (`ROW_KEYS`), A_l being the applied operator of layer l, P_l = A_l ... A_1 and S_l = A_L ... A_l:

        forward_gain, backward_gain               largest absolute row sum of P_l; largest absolute column sum of S_l
        signed_forward_gain, signed_backward_gain the same of signed sums, as in the mHC paper's figure
        layer_forward_gain, layer_backward_gain   largest absolute row and column sum of A_l alone
        min_column_sum, ... max_row_sum           the smallest and the largest column and row sum of P_l
        min_forward_gain                          the smallest forward gain of P_l of a token
        activation_max, output_max                largest |x| that enters layer l, and leaves a plain block; all tokens
        activation_rms, growth, least_growth      of what leaves a plain block or enters another layer; growth: the norm
                                                  of a token over its norm at the door; typical_... of the median token
        dispersion                                |x - mean over streams| / |x| in [0, 1]: 0 where streams collapsed
        within                                    false where the layer leaves its bounds, null where it has none
        leaves                                    "explode", "vanish", "not finite", or null
        alarms                                    which `Thresholds` it crosses

    Gains and sums are the worst of the sampled tokens, and `worst_token` is the place of one in its pass. Layers are in
    the order in which they are called. What is not known is null: the composites of layers of different sizes, or of a
    pass in which a layer could not be read. A plain block x + f(x) has no operator, and so no gains.

    Bounds are those of the `dialect` (`properties.explosion.monitor.limits` derives them, and says which threshold
    stands for a law where there is none), or `bound` and `floor`. The first layer to leave them in each way is reported
    once, as a warning of the logger "properties.monitor" (without a configured logging that is a line on stderr); so is
    the first to cross each threshold. docs/monitor.md says what each column is, and what a monitor cannot see.

    Args:
        model: its forward pass is one step. None: call `record` and `flush` yourself.
        path: the table, appended to. A file has one run; of several processes one writes.
        modules: which modules are hyper-connections: names, classes, or a predicate of (name, module); by default those
            whose class is in `KNOWN`.
        blocks: which modules are plain residual blocks, in the same way; by default, where there are no
            hyper-connections, those of a known class, or the members of the longest list of like modules.
        operator: the output of a hyper-connection -> h_res [..., n, n]; by default the one square [..., n, n] tensor.
        streams: their first argument -> x [..., n, C]; by default the argument itself.
        dialect: what they declare, or the name of a preset; it says whether the transpose is applied, and gives the
            bounds.
        transposed: whether the transpose is applied, instead of what the dialect says.
        bound: a largest gain, instead of the dialect's.
        floor: a smallest forward gain, instead of what the dialect or the bound says.
        every: record one pass of so many; with `clock` all passes of one step of so many.
        tokens: how many tokens, evenly spread over the pass, are looked at for gains and dispersion.
        thresholds: `Thresholds`, or a mapping of those that differ from the defaults; False: no such warnings.
        sinks: callables (step, record), called with each row; see `properties.explosion.monitor.sinks`.
        run: a name of the run, in every row; the same one goes on in the same file. By default a new one.
        on_violation: "warn"; "raise", a MonitorViolation at the end of the pass; or a callable (step, row), after the
            warning. Each way of leaving is told once.
        keep: so many recorded passes are kept, and saved when a layer leaves its bounds, beside `path` or `save`.
        save: where they are saved, instead of `path`: the name is completed by the run and the step.
        gradients: record the norm of the gradient at each layer; rows are then written when the next pass begins.
        clock: the step, asked for at the beginning of a pass, such as that of an optimiser with several passes a step.
        ranks: with torch.distributed, take the worst of all ranks, in passes that train and have gradients. All ranks
            must then have the same passes; False: rank 0 records itself alone.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: no module is one, or an argument is out of its range. Nothing else that a monitor does raises.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        path: str | Path | None = None,
        *,
        modules: Chooser | None = None,
        blocks: Chooser | None = None,
        operator: Callable[[Any], Tensor] | None = None,
        streams: Callable[[Tensor], Tensor] | None = None,
        dialect: Dialect | str | None = None,
        transposed: bool | None = None,
        bound: float | None = None,
        floor: float | None = None,
        every: int = 1,
        tokens: int = 64,
        thresholds: Thresholds | Mapping[str, float | None] | bool | None = None,
        sinks: Sequence[Callable[[int, Mapping[str, Any]], Any]] = (),
        run: str | None = None,
        on_violation: str | Callable[[int, Mapping[str, Any]], Any] = "warn",
        keep: int = 3,
        save: str | Path | None = None,
        gradients: bool = False,
        clock: Callable[[], int] | None = None,
        ranks: bool = True,
    ) -> None:
        self.step = 0
        """Passes so far, recorded or not."""
        self._model = read.a_model(model)
        self._path = read.a_path(path)
        self._bound = read.a_gain(bound, "bound")
        self._floor = read.a_gain(floor, "floor", "of 0 or more")
        if self._floor is not None and self._bound is not None and self._floor > self._bound:
            raise ValueError(f"floor is {floor} and bound {bound}; expected a floor of at most the bound")
        self._every = read.a_count(every, "every")
        self._clock = read.a_function(clock, "clock", "() -> the step")
        self._ranks = read.a_choice(ranks, "ranks") is not False
        self._troubles = Troubles()
        self._attached = Attached(self._troubles)
        reading = Reading(
            operator=read.a_function(operator, "operator", "a module's output -> h_res [..., n, n]"),
            streams=read.a_function(streams, "streams", "a module's first argument -> x [..., n, C]"),
            dialect=read.a_dialect(dialect),
            transposed=read.a_choice(transposed, "transposed"),
            tokens=read.a_count(tokens, "tokens"),
            gradients=read.a_choice(gradients, "gradients") or False,
        )
        if self._model is None:
            given = {"modules": modules, "operator": operator, "streams": streams, "blocks": blocks}
            idle = [name for name, value in given.items() if value is not None]
            if idle:
                raise ValueError(f"{idle[0]} is given without a model; expected a model, or none of {', '.join(given)}")
        self._chosen, self._blocks = layers_of(self._model, modules, blocks)
        self._recorder = Recorder(reading, self._troubles, self._attached)
        self._births = Births(self._model or nn.Identity())
        self._report = Report(
            self._troubles,
            self._path,
            read.a_run(run) or uuid.uuid4().hex[:12],
            read.sinks_of(sinks),
            read.a_reaction(on_violation),
            read.a_number(keep, "keep"),
            read.a_path(save) or self._path,
            thresholds_of(thresholds),
            (self._bound, self._floor),
        )
        self._entered = 0
        self._seen = False
        self._flag: tuple[int, Tensor] | None = None
        self._counted = (-1, 0)
        self._alert = False
        self._live()

    def _live(self) -> None:
        """What belongs to this process and is never copied."""
        self._lock = threading.RLock()
        self._trouble, self._guarded = self._troubles.say, self._troubles.instead
        self._by_hand = Pass(recorded=True)

    def __getstate__(self) -> dict[str, Any]:
        """A copy watches nothing and has no file: a model may keep its monitor, and be copied."""
        gone = ("_lock", "_by_hand", "_trouble", "_guarded", "_flag")
        fresh: dict[str, Any] = {"_entered": 0, "_flag": None, "_clock": None}
        return {name: value for name, value in self.__dict__.items() if name not in gone} | fresh

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._live()

    def __enter__(self) -> Monitor:
        self._entered += 1
        if self._entered > 1:
            self._trouble("entered", "this monitor is entered a second time, which has no effect")
            return self
        self._report.open()
        self._seen = False
        if self._model is not None:
            attached = False
            with self._guarded("hooks", f"{type(self._model).__name__} takes no hooks, so nothing is recorded"):
                if not self._recorder.known_to_compilers:
                    forget()
                self._hang(self._model)
                attached = True
            if not attached:
                self._attached.detach()
        return self

    def _hang(self, model: nn.Module) -> None:
        def begin(*_: Any) -> None:
            self._begin()

        def end(module: nn.Module, arguments: Any, output: Any) -> None:
            self._end(output)

        def compiled(arguments: Any, output: Any) -> None:
            self._end(output)

        self._attached.hook(model.register_forward_pre_hook(Hook(begin, self._recorder.key("", "begin", begin))))
        for name, module in self._chosen:
            self._recorder.mixing(name, module)
        for name, module in self._blocks:
            self._recorder.block(name, module)
        for name, module in model.named_modules():
            self._recorder.attention(name, module)
        # Called after an exception too: a pass that is cut off is over.
        hook = Hook(end, self._recorder.key("", "end", compiled))
        self._attached.hook(model.register_forward_hook(hook, always_call=True))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered = max(0, self._entered - 1)
        if self._entered:
            return
        if self._model is not None and self._attached:
            self._attached.missing()
            if not self._seen and error is None:
                self._trouble(
                    "unseen",
                    f"no pass of {type(self._model).__name__} was seen: it was not called, or in a compiled form that "
                    "knows nothing of hooks",
                )
        elif self._by_hand.records and error is None:
            self._trouble("unseen", f"{len(self._by_hand.records)} layers were recorded after the last flush")
        self._attached.detach()
        self._recorder.running.passes.clear()
        self._by_hand = Pass(recorded=True)
        if error is not None:
            with self._guarded("closing", "the last rows cannot be written"):
                self._look_back()
        try:
            if error is None:
                self._look_back()
        finally:
            with self._recorder.running:
                self._report.close()

    def record(self, operator: Tensor, x: Tensor | None = None, name: str | None = None) -> None:
        """Record one layer by hand, in the order of the layers: h_res [..., n, n] as emitted, and x [..., n, C].

        Within a pass of the model nothing else is needed; without a model `flush` ends a pass.
        """
        at = self._pass()
        if at is None or not at.recorded:
            return
        if at is self._by_hand and at.records and at.thread != threading.get_ident():
            at.missed = True
            self._trouble("threads", "layers of one pass were recorded by hand in two threads, in no certain order")
        if not at.records:
            at.thread = threading.get_ident()
        named = f"layer {len(at.records)}"
        with self._guarded("name", "the name of a layer cannot be read"):
            named = named if name is None else str(name)
        entered = [] if x is None else self._recorder.streams_in(x, named, x)
        self._recorder.keep(at, named, operator, entered[0] if entered else None, self._recorder.reading.dialect)

    def watch(self, function: Callable[..., Tensor], name: str | None = None) -> Callable[..., Tensor]:
        """The same function, whose result is recorded as a layer's h_res: for a projection inside a module."""

        def seen(emitted: Any, *_: Any) -> None:
            self.record(emitted, name=name)

        return Watched(function, seen)

    def flush(self) -> list[dict[str, Any]]:
        """End a pass: the rows of the layers recorded since the last, also in `rows` and in the file."""
        at = self._pass() or Pass(recorded=False)
        if at is self._by_hand:
            self._by_hand = Pass(recorded=(self.step + 1) % self._every == 0)
        rows = self._flushed(at)
        at.records = []
        return rows

    def _pass(self) -> Pass | None:
        """The pass that is running in this thread; without a model the one that is recorded by hand."""
        if self._model is None:
            return self._by_hand
        passes = self._recorder.running.passes
        return passes[-1] if passes else None

    def _begin(self) -> None:
        passes, depth = self._recorder.running.passes, calls()
        while passes and passes[-1].depth >= depth:
            self._stop(passes.pop())  # it ended in a Ctrl-C, of which hooks are not told: what is called lies deeper
        at = Pass(False, sys.exc_info()[1], depth)
        if recomputing() or self._recorder.running.busy:
            at.counted = False  # a checkpoint around the whole model; a sink that calls the model
            passes.append(at)
            return
        self._look_back()
        with self._recorder.running, self._guarded("clock", "the step cannot be told, and passes are counted"):
            at.step = None if self._clock is None else int(self._clock())
        step = self.step if at.step is None else at.step
        at.number = self._counted[1] + 1 if self._counted[0] == step else 0
        self._counted = (step, at.number)
        at.regular = step % self._every == 0
        at.recorded, self._alert = at.regular or self._alert, False
        with self._guarded("capture", "whether a CUDA graph is captured cannot be told"):
            if at.recorded and torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
                at.recorded = False  # reading a number would end the capture
                self._trouble("capture", "a CUDA graph is being captured; such a pass is not recorded")
        passes.append(at)
        if at.recorded:
            course = at.course = Course()

            def note(name: str, module: nn.Module, found: Any, out: bool) -> None:
                running = self._recorder.pass_()
                if running is at:
                    with self._guarded("births", f"{name} cannot be looked at"), torch.no_grad():
                        course.note(name, module, found, out)

            with self._guarded("births", "the modules of a pass cannot be looked at"):
                self._births.begin(note)

    def _stop(self, at: Pass) -> None:
        """A pass is over, in whatever way."""
        if at.course is not None:
            with self._guarded("births", "a hook cannot be removed"):
                self._births.end()

    def _look_back(self) -> None:
        """Of the pass before: whether what it returned was finite, and its rows, whose gradients have come by now."""
        with self._lock, self._recorder.running:
            flag, self._flag = self._flag, None
            if flag is not None:
                lost = False
                with self._guarded("output", "whether what the model returned is finite cannot be told"):
                    lost = not bool(flag[1])
                self._alert = lost
                if lost and "output not finite" not in self.departures and "not finite" not in self.departures:
                    self._report.lost(flag[0], bool(getattr(self._model, "training", False)))
            self._report.settle()

    def _end(self, output: Any) -> None:
        running = self._recorder.running
        if not running.passes:
            return
        at = running.passes.pop()
        self._stop(at)
        if sys.exc_info()[1] is not at.handled:  # the pass ends in an exception
            return
        if not at.counted:
            return
        self._seen = True
        if at.recorded:
            at.missed = self._attached.missing() or at.missed
            if not at.records and not at.missed:
                self._trouble(
                    "unseen",
                    f"none of the {len(self._chosen) + len(self._blocks)} layers was seen in a pass: they were not "
                    "called, or compiled, or ran in another thread",
                )
        with self._guarded("output", "whether what the model returned is finite cannot be told"), torch.no_grad():
            at.finite = finite_flag(output)
        self._flushed(at)

    def _flushed(self, at: Pass) -> list[dict[str, Any]]:
        with self._lock, self._recorder.running:
            rows: list[dict[str, Any]] = []
            step = self.step if at.step is None else at.step
            training = bool(getattr(self._model, "training", False))
            self.step += 1
            if at.finite is not None and not at.recorded:
                self._flag = (step, at.finite)
                if not at.finite.is_cuda:
                    self._look_back()
            if at.records:
                with (
                    self._guarded(
                        "measures",
                        "a pass has no rows, for its numbers cannot be read (vmap and fake tensors have none)",
                    ),
                    torch.no_grad(),
                ):
                    rows = rows_of(
                        at.records,
                        complete=not at.missed,
                        step=step,
                        number=at.number,
                        training=training,
                        limits=self._report.limits_of,
                        floored=self._floor is not None,
                    )
            common = self._ranks and at.recorded and at.regular and training and torch.is_grad_enabled() and together()
            if rows or common:
                kept = Kept(rows, at.records[:] if rows else [], not at.missed)
                self._report.take(kept, [dtype_of(layer) for layer, _ in kept.records], common, lambda: born(at, rows))
            return self.rows if rows else rows
