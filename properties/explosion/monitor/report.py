"""What becomes of the rows of a pass: warnings, the file, the sinks, and what is kept of the last passes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mhc_ref import Dialect
from properties.explosion.monitor import history
from properties.explosion.monitor.columns import ROW_KEYS
from properties.explosion.monitor.gains_file import GainsFile
from properties.explosion.monitor.history import Kept
from properties.explosion.monitor.limits import Limits, limits
from properties.explosion.monitor.measures import Layer, State
from properties.explosion.monitor.ranks import merged, rank
from properties.explosion.monitor.rows import departure, place_of
from properties.explosion.monitor.thresholds import Nearest, Thresholds, Watch
from properties.explosion.monitor.troubles import Troubles, Wanted, warn
from properties.guards.printable import printable

Row = dict[str, Any]


class MonitorViolation(Wanted):
    """A layer left its bounds, or crossed a threshold, and `on_violation="raise"` was asked for.

    `row` is the row of the layer, `kind` what is wrong, and `file` where the last passes were saved, if they were.
    """

    def __init__(self, message: str, kind: str, row: Row, file: Path | None) -> None:
        super().__init__(message)
        self.kind, self.row, self.file = kind, row, file


class Report:
    """Of one monitor. A copy has no file open."""

    def __init__(
        self,
        troubles: Troubles,
        path: Path | None,
        run: str,
        sinks: Sequence[Callable[[int, Mapping[str, Any]], Any]],
        on_violation: Any,
        keep: int,
        save: Path | None,
        to: Thresholds,
        ends: tuple[float | None, float | None],
    ) -> None:
        self.rows: list[Row] = []
        self.departures: dict[str, Row] = {}
        self.left: Row | None = None
        self.saved: list[Path] = []
        self.run = run
        self._troubles, self._guarded = troubles, troubles.instead
        self._path, self._sinks, self._on_violation = path, tuple(sinks), on_violation
        self._save, self._to, self._ends = save, to, ends
        self._watch = Watch(to)
        self._kept: deque[Kept] = deque(maxlen=keep) if keep else deque(maxlen=0)
        self._waiting: tuple[list[Row], list[list[Any] | None], bool] | None = None
        self._file: GainsFile | None = None

    def __getstate__(self) -> dict[str, Any]:
        gone = ("_guarded", "_file", "_waiting", "_kept")
        return {name: value for name, value in self.__dict__.items() if name not in gone} | {
            "_sinks": (),
            "_on_violation": "warn",
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._guarded, self._file, self._waiting = self._troubles.instead, None, None
        self._kept = deque(maxlen=0)

    @property
    def nearest(self) -> dict[str, Nearest]:
        return self._watch.nearest

    def open(self) -> None:
        if self._path is None or rank():
            return  # of several processes one writes
        with self._guarded("file", f"{self._path} cannot be opened, so no rows are written"):
            file = GainsFile(self._path, self.run)
            self._file = file
            if file.path != self._path:
                warn("%s", f"{printable(str(self._path))} holds another run, so that this one is in {file.path.name}")

    def close(self) -> None:
        self.settle()
        file, self._file = self._file, None
        if file is not None:
            with self._guarded("file", f"{self._path} cannot be closed"):
                try:
                    if file.removed:
                        self._troubles.say("file", f"{file.path} was removed while it was written; its rows are lost")
                finally:
                    file.close()
        for sink in self._sinks:
            close = getattr(sink, "close", None)
            if close is not None:
                with self._guarded("sink", f"{sink!r} cannot be closed"):
                    close()

    def take(self, found: Kept, dtypes: list[torch.dtype | None], common: bool, born: Callable[[], str | None]) -> None:
        """The rows of a pass, which wait for their gradients if those are asked for.

        common: every other rank has just such a pass. born: where what is not finite was born.

        Raises:
            MonitorViolation: on_violation is "raise".
        """
        self.settle()
        rows, said = found.rows, [dict[str, str]() for _ in found.rows]
        for row in rows:
            row["run"], row["alarms"] = self.run, []
        with self._guarded("thresholds", "the thresholds of a pass cannot be told"):
            said = self._watch.judge(rows, dtypes)
        with self._guarded("births", "where a number was born that is not finite cannot be told"):
            place = born()
            if place is not None and rows:
                lost = [row for row in rows if row["leaves"] == "not finite"]
                if not lost:
                    rows[-1]["alarms"].append("output not finite")
                    said[-1]["output not finite"] = (
                        f"what the model computes after it is not finite; first not finite: {printable(place, 300)}"
                    )
                for row in lost or rows[-1:]:
                    row["born"] = place
        if common:
            with self._guarded("ranks", "the rows of other ranks cannot be had"):
                rows, said = merged(rows, said)
        self.rows = rows
        self._kept.append(found._replace(rows=rows))
        slopes = [_slope(layer.entered) for layer, _ in found.records]
        if any(one is not None for one in slopes):
            self._waiting = (rows, slopes, _scaled(dtypes))
        else:
            self._write(rows)
        with self._guarded("warning", "a layer that leaves its bounds cannot be reported"):
            self._judge(rows, said, [self._to_hold(layer, dialect) for layer, dialect in found.records])

    def settle(self) -> None:
        """Write the rows that waited for their gradients."""
        if self._waiting is None:
            return
        (rows, slopes, scaled), self._waiting = self._waiting, None
        said = [dict[str, str]() for _ in rows]
        with self._guarded("gradients", "the gradients of a pass cannot be told"):
            norms = [None if not one else float(torch.stack(one).norm()) for one in slopes]
            said = self._watch.gradients(rows, norms, scaled)
        self._write(rows)
        with self._guarded("warning", "a layer that leaves its bounds cannot be reported"):
            self._judge(rows, said)

    def lost(self, step: int, training: bool) -> None:
        """What the model returned in a pass that was not recorded is not finite."""
        row: Row = dict.fromkeys(ROW_KEYS)
        row |= {"step": step, "training": training, "run": self.run, "name": "output", "alarms": ["output not finite"]}
        message = "what the model returned is not finite; the next pass is recorded, to find where that begins"
        with self._guarded("warning", "a layer that leaves its bounds cannot be reported"):
            self._violated("output not finite", row, f"step {step}: {message}")

    def limits_of(self, dialect: Dialect | None, n: int) -> Limits:
        """What the gains of layers of n streams are held against."""
        return limits(dialect, n, *self._ends)

    def _to_hold(self, layer: Layer, dialect: Dialect | None) -> Limits | None:
        """None for a plain block."""
        return None if layer.operator is None else self.limits_of(dialect, layer.operator.shape[-1])

    def _judge(self, rows: list[Row], said: list[dict[str, str]], to: list[Limits | None] | None = None) -> None:
        """Report what is wrong for the first time. Without limits: of what came later than the rows themselves."""
        for place, (row, words) in enumerate(zip(rows, said, strict=True)):
            kind = row["leaves"] if to is not None else None
            if to is not None and kind is not None and kind not in self.departures:
                self.left = self.left or row
                self._violated(kind, row, departure(row, to[place]))
            for alarm, sentence in words.items():
                if alarm not in self.departures:
                    self._violated(alarm, row, f"{place_of(row)}: {sentence}")

    def _violated(self, kind: str, row: Row, message: str) -> None:
        self.departures[kind] = row
        file: Path | None = None
        if self._save is not None and self._kept and not rank():
            with self._guarded("save", "the last passes cannot be saved"):
                name = f"{self._save.stem}-{self.run}-{row['step']}.safetensors"
                file = history.save(self._save.with_name(name), list(self._kept), *self._ends)
                if file not in self.saved:
                    self.saved.append(file)
        if not rank():
            warn("%s", message + (f". Saved: mhc-properties replay {file.name}" if file is not None else ""))
        if self._on_violation == "raise":
            raise MonitorViolation(message, kind, row, file)
        if callable(self._on_violation):
            with self._guarded("callback", "on_violation raised"):
                self._on_violation(row["step"], row)

    def _write(self, rows: list[Row]) -> None:
        if rank():
            return
        if self._file is None and self._path is not None and rows:
            self._troubles.say(
                "file", f"{self._path} is not open, so rows are missing in it: `with Monitor(...)` opens it"
            )
        for row in rows:
            if self._file is not None:
                with self._guarded("file", f"{self._path} cannot be written, and rows are missing in it"):
                    self._file.append(row)
            for sink in self._sinks:
                with self._guarded("sink", f"the sink {sink!r} raised"):
                    sink(row["step"], dict(row))  # which a sink may change


def _scaled(dtypes: list[torch.dtype | None]) -> bool:
    """Whether a pass that runs now computes in float16, for which losses are multiplied by a scale."""
    return torch.float16 in dtypes or any(
        torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16 for kind in ("cuda", "cpu")
    )


def _slope(entered: State | None) -> list[Any] | None:
    return None if entered is None else entered.slope
