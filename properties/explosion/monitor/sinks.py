"""Where the rows of a monitor go besides its own file: callables `sink(step, record)`, one record a layer and pass.

Any callable will do. These are for files of comma-separated values, TensorBoard, Weights & Biases and the terminal. A
library is imported when its sink is made, and comes with an extra of its own: `mhc-properties[tensorboard]`,
`mhc-properties[wandb]`. A sink that has a `close` is closed when the monitor is left.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from properties.explosion.monitor.columns import ROW_KEYS
from properties.guards.printable import printable

Sink = Callable[[int, Mapping[str, Any]], None]

CURVES = (
    "forward_gain",
    "backward_gain",
    "layer_forward_gain",
    "layer_backward_gain",
    "min_column_sum",
    "max_column_sum",
    "activation_max",
    "activation_rms",
    "growth",
    "dispersion",
    "gate_saturation",
    "softmax_saturation",
    "attention",
    "gradient_norm",
)
"""The columns that are drawn, where they are known."""


class CsvSink:
    """A table of all columns, with a line of names.

    Raises:
        FileExistsError: there is such a file, of another run perhaps.
        OSError: it cannot be made.
    """

    def __init__(self, path: str | Path) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "x", newline="", encoding="utf-8")  # noqa: SIM115
        self._writer = csv.DictWriter(self._file, list[str](ROW_KEYS), extrasaction="ignore")
        self._writer.writeheader()

    def __call__(self, step: int, record: Mapping[str, Any]) -> None:
        self._writer.writerow({**record, "alarms": " ".join(record["alarms"])})
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoardSink:
    """Curves in a folder for TensorBoard, one for each layer and number.

    Raises:
        ImportError: the extra `tensorboard` is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _without("tensorboard") from error
        self._writer: Any = SummaryWriter(os.fspath(folder))

    def __call__(self, step: int, record: Mapping[str, Any]) -> None:
        for name, value in _curves(record):
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandbSink:
    """The same curves for Weights & Biases. Offline unless `mode` says otherwise: nothing is sent.

    `options` go to `wandb.init`, unless a `run` of it is given.

    Raises:
        ImportError: the extra `wandb` is not installed.
    """

    def __init__(self, run: Any = None, *, mode: str = "offline", **options: Any) -> None:
        self._own = run is None
        if run is None:
            try:
                from importlib import import_module

                run = import_module("wandb").init(mode=mode, **options)
            except ImportError as error:
                raise _without("wandb") from error
        self._run = run

    def __call__(self, step: int, record: Mapping[str, Any]) -> None:
        self._run.log({**dict(_curves(record)), "monitor/step": step})

    def close(self) -> None:
        if self._own:
            self._run.finish()


class TerminalSink:
    """A live line: the worst layer of the last step. Where nobody reads a terminal, nothing is written."""

    def __init__(self, stream: TextIO | None = None, width: int = 100) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._width = width
        self._step: int | None = None
        self._worst: dict[str, tuple[float, str]] = {}

    def __call__(self, step: int, record: Mapping[str, Any]) -> None:
        if step != self._step:
            self._show()
            self._step, self._worst = step, {}
        for name in ("forward_gain", "backward_gain", "growth", "activation_max"):
            value = record[name]
            if value is not None and value > self._worst.get(name, (-1.0, ""))[0]:
                self._worst[name] = (value, record["name"])

    def close(self) -> None:
        self._show()
        if self._step is not None and self._stream.isatty():
            self._stream.write("\n")

    def _show(self) -> None:
        if self._step is None or not self._stream.isatty():
            return
        parts = [f"{name.replace('_', ' ')} {value:.4g} ({printable(at)})" for name, (value, at) in self._worst.items()]
        line = f"step {self._step}: {', '.join(parts)}"
        self._stream.write("\r" + line[: self._width].ljust(self._width))
        self._stream.flush()


def _curves(record: Mapping[str, Any]) -> list[tuple[str, float]]:
    place = f"{record['layer']:03d} {record['name']}"
    return [(f"{name}/{place}", record[name]) for name in CURVES if record[name] is not None]


def _without(name: str) -> ImportError:
    return ImportError(f"{name} is not installed; expected the extra: pip install 'mhc-properties[{name}]'")
