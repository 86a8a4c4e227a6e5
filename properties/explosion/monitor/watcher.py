"""`Monitor`: what hangs on a model, sees its passes, and writes the rows."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from mhc_ref import PRESETS, Dialect
from properties.explosion.monitor import arguments as read
from properties.explosion.monitor.emissions import KNOWN, Chooser, chosen, first_argument, square
from properties.explosion.monitor.gains_file import GainsFile
from properties.explosion.monitor.hooks import Attached, Hook, Watched
from properties.explosion.monitor.limits import Leaving, Limits, limits
from properties.explosion.monitor.measures import Entered, layer_of, streams_of
from properties.explosion.monitor.passes import Pass, Running, calls
from properties.explosion.monitor.rows import departure, rows_of
from properties.explosion.monitor.troubles import Troubles, warn


class Monitor:
    """Records gains, activations and dispersion of every hyper-connection of a model, one JSON line per layer and pass.

    Columns (`ROW_KEYS`), A_l being the applied operator of layer l, P_l = A_l ... A_1 and S_l = A_L ... A_l:

        forward_gain, backward_gain               largest absolute row sum of P_l; largest absolute column sum of S_l
        layer_forward_gain, layer_backward_gain   the same of A_l alone
        min_column_sum, min_row_sum               the smallest column and row sum of P_l
        min_forward_gain                          the smallest forward gain of P_l of a token
        activation_max                            largest |x| of the streams that enter layer l, over all tokens
        dispersion                                |x - mean over streams| / |x| in [0, 1]: 0 where streams collapsed
        within                                    false where the layer leaves its bounds, null where it has none
        leaves                                    "explode", "vanish", "not finite", or null

    Gains and sums are the worst of the sampled tokens. Layers are in the order in which they are called. What is not
    known is null: the composites of layers of different sizes, or of a pass in which a layer could not be read.

    Bounds: of a constrained `dialect` the axis that is normalised last has gains of at most 1 and the other of at most
    n, alone and in every product. Where no eps is added to a denominator its sums are exactly 1, so that they cannot
    fall below 1 either: less is "vanish". `properties.explosion.monitor.limits` says what rounding adds, per layer, and
    which threshold stands for a law where there is none: a smallest gain of 1/max(n, 2) with an eps, 1/`bound` with a
    bound above 1 (at least 1/100), 1/100 otherwise. A gain of 0 is never within, and neither is what is not finite: an
    operator of any token, a product, an activation. The first layer to leave in each of these three ways is reported
    once, as a warning of the logger "properties.monitor" (without a configured logging that is a line on stderr).

    Not seen: what is recomputed in a backward pass (checkpointing), and what a compiled model does not hand to hooks;
    where nothing at all was seen, that is said as a trouble. A copy of a watched model, by deepcopy or pickle, is not
    watched. In several threads each pass has rows of its own; by hand, one thread records.

    Args:
        model: its forward pass is one step. None: call `record` and `flush` yourself.
        path: the table, appended to. In several processes each needs its own.
        modules: which modules are hyper-connections: names, classes, or a predicate of (name, module); by default those
            whose class is in `KNOWN`.
        operator: their output -> h_res [..., n, n]; by default the one square [..., n, n] tensor in it.
        streams: their first argument -> x [..., n, C]; by default the argument itself.
        dialect: what they declare, or the name of a preset; it says whether the transpose is applied, and gives the
            bounds.
        transposed: whether the transpose is applied, instead of what the dialect says.
        bound: a largest gain, instead of the dialect's.
        floor: a smallest forward gain, instead of what the dialect or the bound says.
        every: record one pass of so many.
        tokens: how many tokens, evenly spread over the pass, are looked at for gains and dispersion.

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
        operator: Callable[[Any], Tensor] | None = None,
        streams: Callable[[Tensor], Tensor] | None = None,
        dialect: Dialect | str | None = None,
        transposed: bool | None = None,
        bound: float | None = None,
        floor: float | None = None,
        every: int = 1,
        tokens: int = 64,
    ) -> None:
        self.rows: list[dict[str, Any]] = []
        """The rows of the last recorded pass."""
        self.left: dict[str, Any] | None = None
        """The row of the first layer that left its bounds, if one did."""
        self.departures: dict[Leaving, dict[str, Any]] = {}
        """The row of the first layer that left them in each way."""
        self.step = 0
        """Passes so far, recorded or not."""
        self._model = read.a_model(model)
        self._path = read.a_path(path)
        self._operator = read.a_function(operator, "operator", "a module's output -> h_res [..., n, n]")
        self._streams = read.a_function(streams, "streams", "a module's first argument -> x [..., n, C]")
        self._dialect = read.a_dialect(dialect)
        self._transposed = read.a_choice(transposed, "transposed")
        self._bound = read.a_gain(bound, "bound")
        self._floor = read.a_gain(floor, "floor", "of 0 or more")
        if self._floor is not None and self._bound is not None and self._floor > self._bound:
            raise ValueError(f"floor is {floor} and bound {bound}; expected a floor of at most the bound")
        self._every = read.a_count(every, "every")
        self._tokens = read.a_count(tokens, "tokens")
        if self._model is None:
            given = {"modules": modules, "operator": operator, "streams": streams}
            idle = [name for name, value in given.items() if value is not None]
            if idle:
                raise ValueError(f"{idle[0]} is given without a model; expected a model, or none of {', '.join(given)}")
        self._chosen = [] if self._model is None else chosen(self._model, modules)
        self._troubles = Troubles()
        self._attached = Attached(self._troubles)
        self._file: GainsFile | None = None
        self._entered = 0
        self._seen = False
        self._live()

    def _live(self) -> None:
        """What belongs to this process and is never copied."""
        self._lock = threading.RLock()
        self._trouble, self._guarded = self._troubles.say, self._troubles.instead
        self._running = Running()
        self._by_hand = Pass(recorded=True)

    @property
    def troubles(self) -> int:
        """How often something went wrong in the monitor itself."""
        return self._troubles.count

    def __getstate__(self) -> dict[str, Any]:
        """A copy watches nothing and has no file: a model may keep its monitor, and be copied."""
        gone = ("_lock", "_running", "_by_hand", "_trouble", "_guarded")
        fresh: dict[str, Any] = {"_file": None, "_entered": 0}
        return {name: value for name, value in self.__dict__.items() if name not in gone} | fresh

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._live()

    def __enter__(self) -> Monitor:
        self._entered += 1
        if self._entered > 1:
            self._trouble("entered", "this monitor is entered a second time, which has no effect")
            return self
        with self._guarded("file", f"{self._path} cannot be opened, so no rows are written"):
            if self._path is not None:
                self._file = GainsFile(self._path)
        self._seen = False
        if self._model is not None:
            attached = False
            with self._guarded("hooks", f"{type(self._model).__name__} takes no hooks, so nothing is recorded"):
                self._attached.hook(self._model.register_forward_pre_hook(Hook(self._begin)))
                for name, module in self._chosen:
                    self._attach(name, module)
                # Called after an exception too: a pass that is cut off is over.
                self._attached.hook(self._model.register_forward_hook(Hook(self._end), always_call=True))
                attached = True
            if not attached:
                self._attached.detach()
        return self

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
        self._running.passes.clear()
        self._by_hand = Pass(recorded=True)
        file, self._file = self._file, None
        if file is not None:
            with self._guarded("file", f"{self._path} cannot be closed"):
                try:
                    if file.removed:
                        self._trouble("file", f"{self._path} was removed while it was written, and its rows are lost")
                finally:
                    file.close()

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
        entered = [] if x is None else self._streams_in(x, named)
        self._keep(at, named, operator, entered[0] if entered else None, self._dialect)

    def watch(self, function: Callable[..., Tensor], name: str | None = None) -> Callable[..., Tensor]:
        """The same function, whose result is recorded as a layer's h_res: for a projection inside a module."""
        return Watched(function, lambda emitted: self.record(emitted, name=name))

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
        return self._running.passes[-1] if self._running.passes else None

    def _begin(self, module: nn.Module, arguments: Any) -> None:
        passes, depth = self._running.passes, calls()
        while passes and passes[-1].depth >= depth:
            passes.pop()  # it ended in a Ctrl-C, of which hooks are not told: what is called from it lies deeper
        recorded = self.step % self._every == 0
        with self._guarded("capture", "whether a CUDA graph is captured cannot be told"):
            if recorded and torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
                recorded = False  # reading a number would end the capture
                self._trouble("capture", "a CUDA graph is being captured; such a pass is not recorded")
        passes.append(Pass(recorded, sys.exc_info()[1], depth))

    def _end(self, module: nn.Module, arguments: Any, output: Any) -> None:
        if not self._running.passes:
            return
        at = self._running.passes.pop()
        if sys.exc_info()[1] is not at.handled:  # the pass ends in an exception
            return
        self._seen = True
        if at.recorded:
            at.missed = self._attached.missing() or at.missed
            if not at.records and not at.missed:
                self._trouble(
                    "unseen",
                    f"none of the {len(self._chosen)} hyper-connections was seen in a pass: they were not called, or "
                    "compiled, or ran in another thread",
                )
        self._flushed(at)

    def _flushed(self, at: Pass) -> list[dict[str, Any]]:
        with self._lock:
            rows: list[dict[str, Any]] = []
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
                        step=self.step,
                        training=bool(getattr(self._model, "training", False)),
                        limits=self._limits,
                        floored=self._floor is not None,
                    )
                self.rows = rows
                self._write(rows)
                with self._guarded("warning", "a layer that leaves its bounds cannot be reported"):
                    self._warn(rows, at)
            self.step += 1
            return rows

    def _write(self, rows: list[dict[str, Any]]) -> None:
        if self._file is None and self._path is not None and rows:
            self._trouble("file", f"{self._path} is not open, so rows are missing in it: `with Monitor(...)` opens it")
        if self._file is not None:
            for row in rows:
                with self._guarded("file", f"{self._path} cannot be written, and rows are missing in it"):
                    self._file.append(row)

    def _attach(self, name: str, module: nn.Module) -> None:
        known = KNOWN.get(type(module).__name__)
        dialect = self._dialect or (PRESETS.get(known.dialect) if known is not None else None)

        def entering(module: nn.Module, arguments: Any, options: Any) -> None:
            """Before the module runs, which may write into its argument."""
            at = self._pass()
            if at is None or not at.recorded or self._running.busy:
                return
            x: Any = None
            with self._running, self._guarded("streams", f"the streams that enter {name} cannot be read"):
                given = first_argument(module, arguments, options)
                if given is not None:
                    x = self._streams(given) if self._streams else known.streams(module, given) if known else given
            if x is not None:
                at.waiting += [(module, found) for found in self._streams_in(x, name)]

        def seen(read: Callable[[Any], Any], output: Any) -> None:
            at = self._pass()
            if at is None or not at.recorded or self._running.busy:
                return
            missed, at.missed = at.missed, True
            with self._running, self._guarded("operator", f"h_res of {name} cannot be read"):
                emitted = read(output)
                at.missed = missed
                self._keep(at, name, emitted, at.entered(module), dialect)

        if known is not None and known.function is not None and self._operator is None:
            self._attached.watch(module, known.function, lambda emitted: seen(lambda one: one, emitted))
        else:
            read = self._operator or (known.operator if known is not None else None) or square

            def emitting(module: nn.Module, arguments: Any, output: Any) -> None:
                seen(read, output)

            self._attached.hook(module.register_forward_hook(Hook(emitting)))
        self._attached.hook(module.register_forward_pre_hook(Hook(entering), with_kwargs=True))

    def _keep(self, at: Pass, name: str, emitted: Any, entered: Entered | None, dialect: Dialect | None) -> None:
        transposed = self._transposed
        if transposed is None:
            transposed = dialect is not None and dialect.transposed
        elif dialect is not None:
            dialect = dialect.with_(transposed=transposed)
        missed, at.missed = at.missed, True
        with self._guarded("operator", f"h_res of {name} cannot be read"), torch.no_grad():
            at.records.append((layer_of(name, emitted, entered, self._tokens, transposed), dialect))
            at.missed = missed

    def _streams_in(self, x: Any, name: str) -> list[Entered]:
        """What entered, or nothing."""
        found: Entered | None = None
        with self._guarded("streams", f"the streams that enter {name} cannot be read"), torch.no_grad():
            found = streams_of(x, self._tokens)
        return [found] if found is not None else []

    def _limits(self, dialect: Dialect | None, n: int) -> Limits:
        return limits(dialect, n, self._bound, self._floor)

    def _warn(self, rows: list[dict[str, Any]], at: Pass) -> None:
        for row in rows:
            kind: Leaving | None = row["leaves"]
            if kind is None or kind in self.departures:
                continue
            self.departures[kind] = row
            self.left = self.left or row
            to = self._limits(at.records[row["layer"]][1], row["streams"])
            warn("%s", departure(row, to))
