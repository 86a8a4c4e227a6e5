"""A monitor of hyper-connections while somebody's torch model runs or trains: `Monitor`.

    with Monitor(model, path="gains.jsonl"):
        train(model)

Per layer and recorded pass one line of JSON with the measures of `explode`. Nothing of the model is changed: hooks
read the residual operator A (x' = A x + h_post^T F) and the streams x that enter, of a sample of tokens, on the device
where they are; one small transfer at the end of a pass brings the numbers over. What that costs is measured by
`python -m properties.explosion.overhead`.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TextIO

import torch
from torch import Tensor, nn

from mhc_ref import DEEPSEEK_V4, LUCIDRAINS, Dialect
from mhc_ref.gain import prefixes, suffixes
from mhc_ref.projection import compute_dtype
from properties.explosion.manifold import flipped

logger = logging.getLogger("properties.monitor")

ROW_KEYS = (
    "step",
    "training",
    "layer",
    "name",
    "streams",
    "tokens",
    "forward_gain",
    "backward_gain",
    "layer_forward_gain",
    "layer_backward_gain",
    "min_column_sum",
    "activation_max",
    "dispersion",
    "within",
)
"""The columns of the table, in this order; what is unknown or not finite is null."""


class Emission(NamedTuple):
    """What a known library's module gives away: A from its output or one of its functions, and x from its input."""

    operator: Callable[[Any], Tensor] | None
    function: str | None
    streams: Callable[[nn.Module, Tensor], Tensor]
    dialect: Dialect


def _as_given(module: nn.Module, x: Tensor) -> Tensor:
    return x


def _streams_first(module: nn.Module, x: Tensor) -> Tensor:
    """hyper-connections keeps streams in the batch: (b s) ... d."""
    return x.unflatten(0, (-1, int(module.num_residual_streams))).movedim(1, -2)  # pyright: ignore[reportArgumentType]


def _second(output: Any) -> Tensor:
    return output[1]


_DEEPSEEK = Emission(_second, None, _as_given, DEEPSEEK_V4)
KNOWN: Mapping[str, Emission] = {
    # transformers 5.23.0: (h_post, h_res, branch input); the decoder layer applies the transpose of h_res.
    "DeepseekV4HyperConnection": _DEEPSEEK,
    "Glm5NextTextHyperConnection": _DEEPSEEK,
    # hyper-connections 0.4.11: '... s t, ... s d -> ... t d' with what residual_mix_constraint_fn returns.
    "ManifoldConstrainedHyperConnections": Emission(None, "residual_mix_constraint_fn", _streams_first, LUCIDRAINS),
}
"""Modules that need no description, by the name of their class."""


class _Record(NamedTuple):
    name: str
    operator: Tensor  # [T, n, n], applied, float64
    dialect: Dialect | None
    units: tuple[float, float]  # unit roundoff of what is emitted, where it was rounded again, and of the computation
    numbers: Tensor  # activation max, dispersion


class Monitor:
    """Records gains, activations and dispersion of every hyper-connection of a model, one JSON line per layer and pass.

    Columns (`ROW_KEYS`), A_l being the applied operator of layer l, P_l = A_l ... A_1 and S_l = A_L ... A_l:

        forward_gain, backward_gain               largest absolute row sum of P_l; largest absolute column sum of S_l
        layer_forward_gain, layer_backward_gain   the same of A_l alone
        min_column_sum                            the smallest column sum of P_l (1 where the mean of streams is kept)
        activation_max                            largest |x| of the streams that enter layer l, over all tokens
        dispersion                                |x - mean over streams| / |x| in [0, 1]: 0 where streams collapsed
        within                                    false where the layer leaves its bound, null where it has none

    Gains and column sums are the worst of the sampled tokens. Layers are in the order in which they are called.

    Bounds: of a constrained `dialect` the axis that is normalised last has gains of at most 1 and the other of at most
    n, alone and in every product; rounding adds, per layer, one unit of the emitted dtype where it is a short one, and
    (n + 1 + 2 max |log A_ij|) units of float32 (float64 for float64): a sum, a division, and a logarithm as large as
    that where the implementation works in logs. Of anything else the bound is `bound`, on the gains of P_l and of A_l.
    What is not finite is never within. The first layer to leave is reported once, as a warning of the logger
    "properties.monitor" (without a configured logging that is a line on stderr).

    Not seen: what is recomputed in a backward pass (checkpointing), and what a compiled model does not hand to hooks.

    Args:
        model: its forward pass is one step. None: call `record` and `flush` yourself.
        path: the table, appended to. In several processes each needs its own.
        modules: which modules are hyper-connections: names, classes, or a predicate of (name, module); by default those
            whose class is in `KNOWN`.
        operator: their output -> h_res [..., n, n]; by default the one square [..., n, n] tensor in it.
        streams: their first argument -> x [..., n, C]; by default the argument itself.
        dialect: what they declare; it says whether the transpose is applied, and gives the bounds.
        transposed: whether the transpose is applied, instead of what the dialect says.
        bound: a largest gain, instead of the dialect's.
        every: record one pass of so many.
        tokens: how many tokens, evenly spread over the pass, are looked at for gains and dispersion.

    Raises:
        ValueError: no module is one, or an argument is out of its range.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        path: str | Path | None = None,
        *,
        modules: Sequence[str | type[nn.Module]] | Callable[[str, nn.Module], bool] | None = None,
        operator: Callable[[Any], Tensor] | None = None,
        streams: Callable[[Tensor], Tensor] | None = None,
        dialect: Dialect | None = None,
        transposed: bool | None = None,
        bound: float | None = None,
        every: int = 1,
        tokens: int = 64,
    ) -> None:
        for name, value in (("every", every), ("tokens", tokens)):
            if value < 1:
                raise ValueError(f"{name} is {value}; expected 1 or more")
        if bound is not None and not bound > 0:
            raise ValueError(f"bound is {bound}; expected a gain above 0")
        self.rows: list[dict[str, Any]] = []
        """The rows of the last recorded pass."""
        self.left: dict[str, Any] | None = None
        """The row of the first layer that left its bound, if one did."""
        self.step = 0
        """Passes so far, recorded or not."""
        self._model = model
        self._path = path
        self._operator = operator
        self._streams = streams
        self._dialect, self._transposed = dialect, transposed
        self._bound = bound
        self._every, self._tokens = every, tokens
        self._chosen = [] if model is None else _chosen(model, modules)
        self._records: list[_Record] = []
        self._undo: list[Callable[[], Any]] = []
        self._file: TextIO | None = None
        self._active = model is None

    def __enter__(self) -> Monitor:
        if self._path is not None:
            Path(self._path).parent.mkdir(parents=True, exist_ok=True)
            self._file = Path(self._path).open("a", encoding="utf-8")
        if self._model is not None:
            self._undo.append(self._model.register_forward_pre_hook(self._begin).remove)
            for name, module in self._chosen:
                self._attach(name, module)
            self._undo.append(self._model.register_forward_hook(self._end).remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()
        self._records.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    def record(self, operator: Tensor, x: Tensor | None = None, name: str | None = None) -> None:
        """Record one layer by hand, in the order of the layers: h_res [..., n, n] as emitted, and x [..., n, C].

        Within a pass of the model nothing else is needed; without a model `flush` ends a pass.
        """
        if self._active:
            self._keep(name or f"layer {len(self._records)}", operator, x, self._dialect)

    def watch(self, function: Callable[..., Tensor], name: str | None = None) -> Callable[..., Tensor]:
        """The same function, whose result is recorded as a layer's h_res: for a projection inside a module."""

        def watched(*arguments: Any, **options: Any) -> Tensor:
            emitted = function(*arguments, **options)
            self.record(emitted, name=name)
            return emitted

        return watched

    def flush(self) -> list[dict[str, Any]]:
        """End a pass: the rows of the layers recorded since the last, also in `rows` and in the file."""
        if self._records:
            with torch.no_grad():
                self.rows = self._measured()
            self._warn()
            if self._file is not None:
                self._file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in self.rows)
                self._file.flush()
            self._records = []
        self.step += 1
        return self.rows

    def _begin(self, module: nn.Module, arguments: Any) -> None:
        self._records = []
        self._active = self.step % self._every == 0

    def _end(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self.flush()
        self._active = False

    def _attach(self, name: str, module: nn.Module) -> None:
        known = KNOWN.get(type(module).__name__)
        dialect = self._dialect or (known.dialect if known is not None else None)
        if known is not None and known.function is not None and self._operator is None:
            self._replace(name, module, known, dialect)
            return

        def seen(module: nn.Module, arguments: Any, output: Any) -> None:
            if not self._active:
                return
            read = self._operator or (known.operator if known is not None else None) or square
            x = next((one for one in arguments if isinstance(one, Tensor)), None)
            if x is not None:
                x = self._streams(x) if self._streams else known.streams(module, x) if known else x
            self._keep(name, read(output), x, dialect)

        self._undo.append(module.register_forward_hook(seen).remove)

    def _replace(self, name: str, module: nn.Module, known: Emission, dialect: Dialect | None) -> None:
        """Watch a function that the module keeps as an attribute, and the streams that come in."""
        assert known.function is not None
        inner = getattr(module, known.function)
        entered: list[Tensor] = []

        def entering(module: nn.Module, arguments: Any) -> None:
            if self._active and arguments and isinstance(arguments[0], Tensor):
                entered[:] = [known.streams(module, arguments[0])]

        def watched(*arguments: Any, **options: Any) -> Tensor:
            emitted = inner(*arguments, **options)
            if self._active:
                self._keep(name, emitted, entered.pop() if entered else None, dialect)
            return emitted

        setattr(module, known.function, watched)
        self._undo.append(lambda: setattr(module, known.function or "", inner))
        self._undo.append(module.register_forward_pre_hook(entering).remove)

    def _keep(self, name: str, emitted: Tensor, x: Tensor | None, dialect: Dialect | None) -> None:
        """A sample of A in float64, and two numbers of x; everything stays on its device."""
        if emitted.ndim < 2 or emitted.shape[-1] != emitted.shape[-2]:
            raise ValueError(f"{name}: h_res has shape {tuple(emitted.shape)}; expected [..., n, n]")
        with torch.no_grad():
            wide = torch.float64 if emitted.device.type != "mps" else torch.float32
            n = emitted.shape[-1]
            operator = _sample(emitted.detach().reshape(-1, n, n), self._tokens).to(wide)
            numbers = emitted.new_full((2,), math.nan, dtype=wide)
            if x is not None and x.numel():
                low, high = torch.aminmax(x.detach())
                numbers[0] = torch.maximum(-low, high)
                if x.ndim >= 2 and x.shape[-2] == n:
                    # float32: the squares of float16 overflow, and only a ratio is asked for
                    sampled = _sample(x.detach().reshape(-1, n, x.shape[-1]), self._tokens).float()
                    apart = sampled - sampled.mean(-2, keepdim=True)
                    numbers[1] = apart.norm() / sampled.norm()
        compute = compute_dtype(emitted.dtype)
        stored = 0.0 if emitted.dtype == compute else torch.finfo(emitted.dtype).eps / 2
        units = (stored, torch.finfo(compute).eps / 2)
        transposed = self._transposed if self._transposed is not None else dialect is not None and dialect.transposed
        self._records.append(_Record(name, operator.mT if transposed else operator, dialect, units, numbers))

    def _measured(self) -> list[dict[str, Any]]:
        records = self._records
        shapes = {record.operator.shape for record in records}
        if len(shapes) == 1 and len({record.operator.device for record in records}) == 1:
            stack = torch.stack([record.operator for record in records])
            before, after = prefixes(stack), suffixes(stack)
            forward = before.abs().sum(-1).flatten(1).amax(-1)
            through = before.abs().sum(-2).flatten(1).amax(-1)
            backward = after.abs().sum(-2).flatten(1).amax(-1)
            least = before.sum(-2).flatten(1).amin(-1)
            composed = torch.stack([forward, backward, least, through], -1)
            own = _sums(stack)
        else:  # other numbers of streams or tokens, or several devices: no composite
            composed = torch.full((len(records), 4), math.nan, dtype=torch.float64)
            own = torch.cat([_sums(record.operator[None]).cpu() for record in records])
        numbers = torch.stack([record.numbers.to(own.device) for record in records])
        table = torch.cat([composed.to(own.device), own, numbers], -1).tolist()
        rows: list[dict[str, Any]] = []
        allowed = 0.0
        for layer, (record, line) in enumerate(zip(records, table, strict=True)):
            forward, backward, least, through, own_forward, own_backward, logs, largest, dispersion = line
            n = record.operator.shape[-1]
            allowed += record.units[0] + (n + 1 + 2 * logs) * record.units[1]
            row = {
                "step": self.step,
                "training": bool(self._model.training) if self._model is not None else False,
                "layer": layer,
                "name": record.name,
                "streams": n,
                "tokens": record.operator.shape[0],
                "forward_gain": forward,
                "backward_gain": backward,
                "layer_forward_gain": own_forward,
                "layer_backward_gain": own_backward,
                "min_column_sum": least,
                "activation_max": largest,
                "dispersion": dispersion,
            }
            gains = {"forward": (own_forward, forward), "backward": (own_backward, through)}
            row["within"] = self._within(gains, self._limits(record.dialect, n), allowed, largest)
            rows.append({key: _plain(row[key]) for key in ROW_KEYS})
        return rows

    def _limits(self, dialect: Dialect | None, n: int) -> dict[str, float]:
        return limits_of(dialect, n) if self._bound is None else {"forward": self._bound, "backward": self._bound}

    def _within(
        self, gains: Mapping[str, tuple[float, float]], limits: Mapping[str, float], allowed: float, largest: float
    ) -> bool | None:
        if not all(math.isfinite(own) for own, _ in gains.values()) or math.isinf(largest):
            return False
        if not limits:
            return None
        room = 1.0 + (allowed if self._bound is None else 0.0)
        return all(not value > limits[name] * room for name, values in gains.items() for value in values)

    def _warn(self) -> None:
        if self.left is not None:
            return
        self.left = next((row for row in self.rows if row["within"] is False), None)
        if self.left is not None:
            row = self.left
            limits = self._limits(self._records[row["layer"]].dialect, row["streams"])
            logger.warning(
                "step %s: layer %s (%s) leaves its bound (%s): forward gain %s (alone %s), backward gain alone %s, "
                "activation max %s",
                row["step"],
                row["layer"],
                row["name"],
                ", ".join(f"{name} {limit:g}" for name, limit in limits.items()) or "to be finite",
                *(
                    "not finite" if row[key] is None else f"{row[key]:.6g}"
                    for key in ("forward_gain", "layer_forward_gain", "layer_backward_gain", "activation_max")
                ),
            )


def limits_of(dialect: Dialect | None, n: int) -> dict[str, float]:
    """The largest forward and backward gain of a dialect's operators and of their products; {} where there is none.

    `properties.explosion.manifold` has the proofs: the sums that are normalised last are at most 1, the others below n;
    a mixture of permutations has both at 1.
    """
    if dialect is None or dialect.residual == "unconstrained":
        return {}
    if dialect.residual != "sinkhorn":
        return {"forward": 1.0, "backward": 1.0}
    if not dialect.iterations:
        return {}
    return {"forward": float(n), "backward": 1.0} if flipped(dialect) else {"forward": 1.0, "backward": float(n)}


def square(output: Any) -> Tensor:
    """The one tensor [..., n, n] with a token axis in what a module returned.

    Raises:
        ValueError: there is none, or more than one.
    """
    if isinstance(getattr(output, "res", None), Tensor):  # mhc_ref.Mappings
        return output.res
    parts = list(output.values()) if isinstance(output, Mapping) else output  # pyright: ignore[reportUnknownVariableType]
    parts = [parts] if isinstance(parts, Tensor) else parts
    tensors = [one for one in parts if isinstance(one, Tensor)] if isinstance(parts, Sequence) else []
    found = [one for one in tensors if one.ndim >= 3 and one.shape[-1] == one.shape[-2] > 1]
    if len(found) != 1:
        shapes = [tuple(one.shape) for one in tensors]
        raise ValueError(
            f"a hyper-connection returned tensors of shapes {shapes}; expected exactly one [..., n, n]. "
            "Say which is h_res: Monitor(..., operator=lambda output: ...)"
        )
    return found[0]


def _chosen(
    model: nn.Module, modules: Sequence[str | type[nn.Module]] | Callable[[str, nn.Module], bool] | None
) -> list[tuple[str, nn.Module]]:
    """The hyper-connections of a model."""
    if modules is None:
        wanted = [(name, one) for name, one in model.named_modules() if type(one).__name__ in KNOWN]
        expected = f"by default the classes {', '.join(KNOWN)}"
    elif callable(modules):
        wanted = [(name, one) for name, one in model.named_modules() if modules(name, one)]
        expected = "modules that the predicate accepts"
    else:
        names = {one for one in modules if isinstance(one, str)}
        classes = tuple(one for one in modules if not isinstance(one, str))
        wanted = [(name, one) for name, one in model.named_modules() if name in names or isinstance(one, classes)]
        expected = f"modules among {[getattr(one, '__name__', one) for one in modules]}"
    if not wanted:
        kinds = sorted({type(one).__name__ for one in model.modules()})
        raise ValueError(
            f"{type(model).__name__} has no hyper-connections ({expected}); it has {', '.join(kinds[:12])}. "
            "Name them: Monitor(model, modules=[MyHyperConnection]); or record by hand: monitor.record(h_res, x)"
        )
    return wanted


def _sample(rows: Tensor, most: int) -> Tensor:
    """At most `most` rows, evenly spread."""
    return rows if len(rows) <= most else rows[:: -(-len(rows) // most)]


def _sums(operators: Tensor) -> Tensor:
    """[L, T, n, n] -> [L, 3]: largest absolute row sum and column sum, and |log| of an entry that is not tiny."""
    size = operators.abs()
    logs = size.clamp_min(torch.finfo(torch.float32).tiny).log().abs()
    return torch.stack([part.flatten(1).amax(-1) for part in (size.sum(-1), size.sum(-2), logs)], -1)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
