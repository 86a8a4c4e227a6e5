"""What hangs on the modules of a model, and records the layers of a pass that is running."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mhc_ref import Dialect
from properties.core.family import gate_of
from properties.explosion.monitor import measures
from properties.explosion.monitor.attention import cap, heads_of, largest, packed
from properties.explosion.monitor.blocks import channels_of, leaving, state_of
from properties.explosion.monitor.compiled import listen, new_key
from properties.explosion.monitor.emissions import first_argument, square
from properties.explosion.monitor.hooks import Attached, Hook
from properties.explosion.monitor.known import Emission, emitted_by
from properties.explosion.monitor.measures import Layer, State, layer_of, streams_of
from properties.explosion.monitor.passes import Pass, Running
from properties.explosion.monitor.troubles import Troubles


class Reading(NamedTuple):
    """How the layers of a model are read; see the arguments of `Monitor`."""

    operator: Callable[[Any], Tensor] | None
    streams: Callable[[Tensor], Tensor] | None
    dialect: Dialect | None
    transposed: bool | None
    tokens: int
    gradients: bool


class Recorder:
    """Records layers in the pass that is running in their thread."""

    def __init__(self, reading: Reading, troubles: Troubles, attached: Attached) -> None:
        self.reading = reading
        self._troubles, self._guarded, self._attached = troubles, troubles.instead, attached
        self._keys: dict[tuple[str, str], int] = {}
        self.running = Running()

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy: nothing runs in it, and compiled code tells it nothing."""
        gone = ("running", "_guarded", "_keys")
        return {name: value for name, value in self.__dict__.items() if name not in gone}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._guarded, self._keys, self.running = self._troubles.instead, {}, Running()

    @property
    def known_to_compilers(self) -> bool:
        """Whether the hooks were set before, so that what is compiled may have them."""
        return bool(self._keys)

    def key(self, name: str, kind: str, act: Callable[..., None]) -> int:
        """The key of a hook, the same each time that it is set."""
        key = self._keys.setdefault((name, kind), new_key())
        self._attached.undo(listen(key, act))
        return key

    def pass_(self) -> Pass | None:
        """The pass of this thread, if it is recorded and none of our own readings is running."""
        at = self.running.passes[-1] if self.running.passes else None
        return at if at is not None and at.recorded and not self.running.busy else None

    def mixing(self, name: str, module: nn.Module) -> None:
        """Hang on a hyper-connection."""
        known, declared = emitted_by(module)
        if self.reading.operator is not None and known is not None:
            known = known._replace(function=None, computed=None, operator=self.reading.operator)
        dialect = self.reading.dialect or declared
        if known is not None and known.function is not None:
            self._function(name, module, known, dialect)
            if known.computed is not None:
                return
        first = next(iter(inspect.signature(module.forward).parameters), None)

        def entering(arguments: Any, options: Any) -> None:
            """Before the module runs, which may write into its argument."""
            at = self.pass_()
            if at is None:
                return
            x: Any = None
            given: Tensor | None = None
            with self.running, self._guarded("streams", f"the streams that enter {name} cannot be read"):
                given = first_argument(arguments, options, first)
                if given is not None:
                    own = self.reading.streams
                    x = own(given) if own else known.streams(module, given) if known else given
            if x is not None:
                at.waiting += [(module, found) for found in self.streams_in(x, name, given)]

        self._before(name, module, entering)
        if known is not None and known.function is not None:
            return
        read = (known.operator if known is not None else None) or self.reading.operator or square

        def emitting(output: Any) -> None:
            at = self.pass_()
            if at is None:
                return
            missed, at.missed = at.missed, True
            with self.running, self._guarded("operator", f"h_res of {name} cannot be read"), torch.no_grad():
                entered = at.entered(module)
                if known is not None and known.computed is not None:
                    emitted = self._computed(known, module, entered)
                else:
                    emitted = read(output)
                extras = self._extras(known, module, entered, output, dialect)
                at.missed = missed
                self.keep(at, name, emitted, entered, dialect, extras)

        self._after(name, module, emitting)

    def block(self, name: str, module: nn.Module) -> None:
        """Hang on a plain residual block."""

        def entering(arguments: Any, options: Any) -> None:
            at = self.pass_()
            if at is None:
                return
            with self.running, self._guarded("streams", f"what enters {name} cannot be read"), torch.no_grad():
                x = state_of(module, arguments, options)
                found = None if x is None else self._state(module, x)
                if x is not None and found is not None:
                    found = found._replace(sample=None, shape=tuple(x.shape), slope=self._slope(x))
                    at.waiting.append((module, found))

        def emitting(output: Any) -> None:
            at = self.pass_()
            if at is None:
                return
            with self.running, self._guarded("streams", f"what leaves {name} cannot be read"), torch.no_grad():
                entered = at.entered(module)
                left = leaving(output, entered.shape if entered is not None else None)
                if left is None:
                    self._troubles.say(
                        "blocks",
                        f"{name} returns no tensor of the shape that entered it, so that it is no residual block; say "
                        "which modules are: Monitor(model, blocks=['layers.0', ...])",
                    )
                    return
                state = self._state(module, left)
                state = None if state is None else state._replace(sample=None)
                caps, at.attention = at.attention, []
                most = torch.stack(caps).amax() if caps else None
                at.records.append((Layer(name, None, left.dtype, entered, state, attention=most), None))

        self._before(name, module, entering)
        self._after(name, module, emitting)

    def _state(self, module: nn.Module, x: Tensor) -> State | None:
        """The numbers at a door of a plain block."""
        axis = channels_of(module, x)
        return streams_of(x if axis == -1 else x.movedim(axis, -1), self.reading.tokens, plain=True)

    def attention(self, name: str, module: nn.Module) -> None:
        """Hang on what queries and keys come out of."""
        if isinstance(module, nn.MultiheadAttention):

            def entering(arguments: Any, options: Any) -> None:
                at = self.pass_()
                query, key = ([*arguments, None, None][place] for place in (0, 1))
                query, key = options.get("query", query), options.get("key", key)
                if at is not None and isinstance(query, Tensor) and isinstance(key, Tensor):
                    with self._guarded("attention", f"the logits of {name} cannot be told"), torch.no_grad():
                        self._attended(at, packed(module, query, key, self.reading.tokens))

            self._before(name, module, entering)
            return
        heads = heads_of(module)
        if heads is None:
            return
        width = heads.width

        def queried(output: Any) -> None:
            at = self.pass_()
            if at is not None:
                with self._guarded("attention", f"the queries of {name} cannot be read"), torch.no_grad():
                    at.queries[id(module)] = largest(output, width, self.reading.tokens)

        def keyed(output: Any) -> None:
            at = self.pass_()
            if at is not None:
                with self._guarded("attention", f"the keys of {name} cannot be read"), torch.no_grad():
                    query, key = at.queries.pop(id(module), None), largest(output, width, self.reading.tokens)
                    self._attended(at, None if query is None or key is None else cap(query, key, width))

        self._after(f"{name} queries", heads.queries, queried)
        self._after(f"{name} keys", heads.keys, keyed)

    @staticmethod
    def _attended(at: Pass, found: Tensor | None) -> None:
        """The cap of logits in a layer: the plain block that is running, or else the hyper-connection before it."""
        if found is None:
            return
        if at.waiting or not at.records:
            at.attention.append(found)
        else:
            layer, dialect = at.records[-1]
            most = found if layer.attention is None else torch.maximum(found, layer.attention)
            at.records[-1] = (layer._replace(attention=most), dialect)

    def keep(
        self,
        at: Pass,
        name: str,
        emitted: Any,
        entered: State | None,
        dialect: Dialect | None,
        extras: dict[str, Tensor] | None = None,
    ) -> None:
        """Record a layer by the h_res [..., n, n] that it emitted."""
        transposed = self.reading.transposed
        if transposed is None:
            transposed = dialect is not None and dialect.transposed
        elif dialect is not None:
            dialect = dialect.with_(transposed=transposed)
        missed, at.missed = at.missed, True
        with self._guarded("operator", f"h_res of {name} cannot be read"), torch.no_grad():
            bare = None if entered is None else entered._replace(sample=None)
            found = layer_of(name, emitted, bare, self.reading.tokens, transposed)
            at.records.append((found._replace(**(extras or {})), dialect))
            at.missed = missed

    def streams_in(self, x: Any, name: str, given: Any) -> list[State]:
        """What entered, or nothing; `given` is the tensor of the model that x was made of."""
        found: State | None = None
        with self._guarded("streams", f"the streams that enter {name} cannot be read"), torch.no_grad():
            found = streams_of(x, self.reading.tokens)
            if found is not None:
                found = found._replace(slope=self._slope(given))
        return [found] if found is not None else []

    def _function(self, name: str, module: nn.Module, known: Emission, dialect: Dialect | None) -> None:
        """Hang on a function of a module, which emits h_res or takes the streams."""

        def seen(emitted: Any, arguments: Any, options: Any) -> None:
            at = self.pass_()
            if at is None:
                return
            missed, at.missed = at.missed, True
            with self.running, self._guarded("operator", f"h_res of {name} cannot be read"), torch.no_grad():
                if known.computed is None:
                    entered, matrix = at.entered(module), emitted
                    if getattr(module, "has_dynamic_alpha_proposals", False):
                        matrix = matrix.mean(0)  # hyper-connections applies the mean of its proposals
                    extras = {"softmax": measures.one_sided(arguments[0])} if arguments else {}
                else:
                    given = arguments[0] if arguments else next(iter(options.values()))
                    entered = next(iter(self.streams_in(known.streams(module, given), name, given)), None)
                    matrix = self._computed(known, module, entered)
                    extras = self._extras(known, module, entered, emitted, dialect)
                at.missed = missed
                self.keep(at, name, matrix, entered, dialect, extras)

        if known.function is not None:
            self._attached.watch(module, known.function, seen, self.key(name, known.function, seen))

    @staticmethod
    def _computed(known: Emission, module: nn.Module, entered: State | None) -> Tensor:
        if entered is None or entered.sample is None or known.computed is None:
            raise ValueError("its streams were not seen")
        return known.computed(module, entered.sample)

    def _extras(
        self, known: Emission | None, module: nn.Module, entered: State | None, output: Any, dialect: Dialect | None
    ) -> dict[str, Tensor]:
        """Saturation of gates, and of the softmax before a projection; what cannot be read is left out."""
        found: dict[str, Tensor] = {}
        with self._guarded("saturation", f"saturation of {type(module).__name__} cannot be told"):
            if known is not None and known.gates is not None and not isinstance(output, Tensor):
                found["gates"] = measures.saturated(known.gates(module, output))
            elif known is None and dialect is not None and gate_of(dialect.post).unit_range:
                gates = getattr(output, "post", None)  # mhc_ref.Mappings
                if isinstance(gates, Tensor):
                    found["gates"] = measures.saturated(gates / dialect.post_scale)
            if known is not None and known.logits is not None and entered is not None and entered.sample is not None:
                found["softmax"] = measures.one_sided(known.logits(module, entered.sample))
        return found

    def _slope(self, x: Any) -> list[Tensor] | None:
        """Where the norm of the gradient at x will be, when it comes."""
        if not (self.reading.gradients and isinstance(x, Tensor) and x.requires_grad) or x.is_inference():
            return None
        norms: list[Tensor] = []

        def came(slope: Tensor) -> None:
            with self._guarded("gradients", "the norm of a gradient cannot be read"), torch.no_grad():
                norms.append(torch.linalg.vector_norm(slope.detach().to(torch.float32)))

        x.register_hook(came)
        return norms

    def _before(self, name: str, module: nn.Module, act: Callable[[Any, Any], None]) -> None:
        def hook(module: nn.Module, arguments: Any, options: Any) -> None:
            act(arguments, options)

        key = self.key(name, "entering", act)
        self._attached.hook(module.register_forward_pre_hook(Hook(hook, key), with_kwargs=True))

    def _after(self, name: str, module: nn.Module, act: Callable[[Any], None]) -> None:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            act(output)

        def compiled(arguments: Any, output: Any) -> None:
            act(output)

        key = self.key(name, "emitting", compiled)
        self._attached.hook(module.register_forward_hook(Hook(hook, key)))
