"""What modules are like: each kind is verified as what it is, or refused with what has to be said instead."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mhc_ref
from mhc_ref import PAPER, Params
from mhc_ref.projection import compute_dtype
from properties.core.case import BranchSpec
from properties.core.implementation import Implementation
from properties.core.law import all_laws
from properties.engine.runner import HarnessError, Profile, Subject, Verdict, examine
from properties.guards.faults import AdapterError
from properties.targets.isolation import isolated
from properties.targets.modules import from_module
from properties.targets.target import TargetError, resolve

NAMES = {"phi": "phi", "bias": "bias", "alpha": "alpha"}


class Plain(nn.Module):
    """The three mappings of the paper."""

    def __init__(self, n: int, channels: int) -> None:
        super().__init__()
        self.phi = nn.Parameter(torch.zeros(n * channels, 2 * n + n * n))
        self.bias = nn.Parameter(torch.zeros(2 * n + n * n))
        self.alpha = nn.Parameter(torch.ones(3))

    @property
    def params(self) -> Params:
        return Params(self.phi, self.bias, self.alpha)

    def forward(self, x: Tensor) -> Any:
        return mhc_ref.mappings(x, self.params, PAPER)


def verdict(
    implementation: Implementation, law: str, directory: Path, dtype: torch.dtype = torch.float32, examples: int = 6
) -> Verdict:
    subject = Subject("target", implementation, dtype, torch.device("cpu"))
    profile = Profile(examples=examples, derandomise=True, shrink=False)
    return examine(all_laws()[law], subject, profile, directory=directory)


def state(tokens: tuple[int, ...] = (2,), weight: bool = False) -> tuple[Tensor, Params]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(*tokens, 3, 4, generator=generator, dtype=torch.float64)
    phi = torch.randn(12, 15, generator=generator, dtype=torch.float64)
    alpha = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    return x, Params(
        phi, torch.linspace(-1, 1, 15).double(), alpha, torch.linspace(0.5, 2, 12).double() if weight else None
    )


def is_the_reference(target: Implementation, weight: bool = False) -> None:
    x, params = state(weight=weight)
    for got, exact in zip(target.mappings(x, params), mhc_ref.mappings(x, params, PAPER), strict=True):
        torch.testing.assert_close(got, exact)


# -- norm weights ------------------------------------------------------------------------------------------------------


class Weighted(Plain):
    """A learned norm weight."""

    def __init__(self, n: int, channels: int) -> None:
        super().__init__(n, channels)
        self.weight = nn.Parameter(torch.ones(n * channels))

    @property
    def params(self) -> Params:
        return Params(self.phi, self.bias, self.alpha, self.weight)


WEIGHTED = {**NAMES, "norm_weight": "weight"}


def test_a_block_without_a_norm_weight_has_ones_in_a_module_that_has_one() -> None:
    target = from_module(Weighted, WEIGHTED, dialect=PAPER)
    assert target.norm_weight
    is_the_reference(target)
    is_the_reference(target, weight=True)


@pytest.mark.slow
def test_a_module_with_a_norm_weight_keeps_the_laws(tmp_path: Path) -> None:
    target = from_module(Weighted, WEIGHTED, dialect=PAPER)
    for law in ("coefficients.agrees-with-oracle", "coefficients.norm-weight-is-absorbed-by-phi"):
        assert verdict(target, law, tmp_path).status == "passed"


def test_a_norm_weight_that_is_declared_is_named() -> None:
    with pytest.raises(ValueError, match="norm_weight=True is declared, and no parameter is named for norm_weight"):
        from_module(Plain, NAMES, dialect=PAPER, norm_weight=True)


# -- buffers and what a call leaves behind -----------------------------------------------------------------------------


class Buffered(Plain):
    """Buffers of every kind, one of them a counter that changes nothing."""

    eps: Tensor
    step: Tensor
    running: Tensor
    rotation: Tensor

    def __init__(self, n: int, channels: int) -> None:
        super().__init__(n, channels)
        self.register_buffer("eps", torch.tensor(1e-20, dtype=torch.float64))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.register_buffer("running", torch.zeros(channels), persistent=False)
        self.register_buffer("rotation", torch.ones(2) * 1j)
        self.register_buffer("nothing", None)

    def forward(self, x: Tensor) -> Any:
        self.step += 1
        self.running += x.detach().flatten(0, -2).mean(0) if x.numel() else 0
        assert self.eps.dtype == torch.float64
        assert self.rotation.is_complex()
        return super().forward(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_buffers_are_no_business_of_the_laws(dtype: torch.dtype, tmp_path: Path) -> None:
    target = from_module(Buffered, NAMES, dialect=PAPER)
    is_the_reference(target)
    assert verdict(target, "coefficients.agrees-with-oracle", tmp_path, dtype).status == "passed"


def test_buffers_have_the_dtype_of_the_parameters() -> None:
    seen: set[torch.dtype] = set()

    class Scaled(Plain):
        scale: Tensor

        def __init__(self, n: int, channels: int) -> None:
            super().__init__(n, channels)
            self.register_buffer("scale", torch.ones(n * channels, 1))

        def forward(self, x: Tensor) -> Any:
            seen.add(self.scale.dtype)
            return mhc_ref.mappings(x, self.params._replace(phi=self.phi * self.scale), PAPER)

    target = from_module(Scaled, NAMES, dialect=PAPER, dtypes=("double",))
    is_the_reference(target)
    assert seen == {torch.float64}


class Remembers(Plain):
    """Each call moves h_pre on, by what the calls before left in a buffer."""

    calls: Tensor

    def __init__(self, n: int, channels: int) -> None:
        super().__init__(n, channels)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        before = self.calls.clone()
        self.calls += 1
        out = super().forward(x)
        return out._replace(pre=out.pre + 0.01 * before)


def shared(kind: type[nn.Module]) -> Callable[[int, int], nn.Module]:
    """The same module for the same size, as an author may keep them."""
    modules: dict[tuple[int, int], nn.Module] = {}

    def make(n: int, channels: int) -> nn.Module:
        if (n, channels) not in modules:
            modules[n, channels] = kind(n, channels)
        return modules[n, channels]

    return make


@pytest.mark.parametrize("make", [Remembers, shared(Remembers)], ids=["fresh", "shared"])
def test_what_a_call_leaves_behind_is_seen(make: Any, tmp_path: Path) -> None:
    target = from_module(make, NAMES, dialect=PAPER)
    assert verdict(target, "execution.mappings-have-no-memory", tmp_path).status == "failed"


def test_shared_modules_are_left_as_they_were_made() -> None:
    make = shared(Plain)
    before = copy.deepcopy(make(3, 4).state_dict())
    is_the_reference(from_module(make, NAMES, dialect=PAPER))
    assert {name: one.dtype for name, one in make(3, 4).state_dict().items()} == dict.fromkeys(before, torch.float32)
    assert all(torch.equal(one, before[name]) for name, one in make(3, 4).state_dict().items())


# -- parameters --------------------------------------------------------------------------------------------------------


class OneUnderTwoNames(nn.Module):
    """The gates of pre and post are one parameter."""

    def __init__(self, n: int, channels: int) -> None:
        super().__init__()
        self.phi = nn.Parameter(torch.zeros(n * channels, 2 * n + n * n))
        self.bias = nn.Parameter(torch.zeros(2 * n + n * n))
        self.first = self.second = nn.Parameter(torch.ones(()))
        self.third = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Any:
        alpha = torch.stack([self.first, self.second, self.third])
        return mhc_ref.mappings(x, Params(self.phi, self.bias, alpha), PAPER)


GATES = {"phi": "phi", "bias": "bias", "alpha.pre": "first", "alpha.post": "second", "alpha.res": "third"}


def test_one_parameter_under_two_names_is_two_attributes() -> None:
    is_the_reference(from_module(OneUnderTwoNames, GATES, dialect=PAPER))


def test_a_parameter_under_another_name_that_nothing_is_named_for_goes_with_it() -> None:
    class Aliased(Plain):
        def __init__(self, n: int, channels: int) -> None:
            super().__init__(n, channels)
            self.again = self.phi

        @property
        def params(self) -> Params:
            return Params((self.phi + self.again) / 2, self.bias, self.alpha)

    is_the_reference(from_module(Aliased, NAMES, dialect=PAPER))
    is_the_reference(from_module(Aliased, {**NAMES, "phi": "again"}, dialect=PAPER))


def test_one_parameter_for_two_of_ours_is_refused_with_the_reason() -> None:
    with pytest.raises(
        ValueError, match=r"first is named more than once, for alpha\.pre and alpha\.post; the laws draw"
    ):
        from_module(OneUnderTwoNames, {**GATES, "alpha.post": "first"}, dialect=PAPER)


def test_a_module_without_phi_is_refused_with_what_can_be_verified() -> None:
    with pytest.raises(ValueError, match=r"nothing is named for phi; .*a static one has no phi.*--dialect"):
        from_module(Plain, {"bias": "bias", "alpha": "alpha"}, dialect=PAPER)


def test_gates_may_be_buffers() -> None:
    class Fixed(Plain):
        def __init__(self, n: int, channels: int) -> None:
            super().__init__(n, channels)
            alpha = self.alpha.data
            del self.alpha
            self.register_buffer("alpha", alpha)

    is_the_reference(from_module(Fixed, NAMES, dialect=PAPER))


def test_frozen_parameters_are_replaced_like_others(tmp_path: Path) -> None:
    target = from_module(lambda n, channels: Plain(n, channels).requires_grad_(False), NAMES, dialect=PAPER)
    is_the_reference(target)
    x, params = state()
    leaf = params.phi.requires_grad_()
    assert torch.autograd.grad(target.mappings(x, params).pre.sum(), leaf)[0].abs().max() > 0


class Tempered(Plain):
    """A parameter that none of ours stands for."""

    def __init__(self, n: int, channels: int) -> None:
        super().__init__(n, channels)
        self.temperature = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x: Tensor) -> Any:
        return super().forward(x * self.temperature)


def test_what_stays_as_it_is_made_is_said() -> None:
    with pytest.raises(ValueError, match=r"nothing is named for temperature \[1\] .*constants=\('temperature',\)"):
        from_module(Tempered, NAMES, dialect=PAPER)
    is_the_reference(from_module(Tempered, NAMES, dialect=PAPER, constants=("temperature",)))
    with pytest.raises(ValueError, match="constants names heat, which Tempered does not have"):
        from_module(Tempered, NAMES, dialect=PAPER, constants=("temperature", "heat"))


LINEAR = {"phi": "fused.weight.T", "bias": "fused.bias", "alpha": "alpha"}


class Lazy(nn.Module):
    """The projection gets its shape in the first call."""

    def __init__(self, n: int, channels: int) -> None:
        super().__init__()
        self.fused, self.alpha = nn.LazyLinear(2 * n + n * n), nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Any:
        self.fused(x.flatten(-2))
        fused: Any = self.fused
        return mhc_ref.mappings(x, Params(fused.weight.mT, fused.bias, self.alpha), PAPER)


def test_lazy_parameters_are_shaped_by_a_call() -> None:
    is_the_reference(from_module(Lazy, LINEAR, dialect=PAPER, dtypes=(torch.float64, torch.float32)))


class Parametrised(nn.Module):
    """The weight of the projection is computed of others."""

    def __init__(self, n: int, channels: int) -> None:
        super().__init__()
        self.fused = torch.nn.utils.parametrizations.weight_norm(nn.Linear(n * channels, 2 * n + n * n))
        self.alpha = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Any:
        fused: Any = self.fused
        return mhc_ref.mappings(x, Params(fused.weight.mT, fused.bias, self.alpha), PAPER)


class Hooked(nn.Module):
    """The weight of the projection is computed of others before each call, by a hook of the old kind."""

    def __init__(self, n: int, channels: int, norm: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.fused = norm(nn.Linear(n * channels, 2 * n + n * n))
        self.alpha = nn.Parameter(torch.ones(3))


@pytest.mark.parametrize(
    ("norm", "stored", "left"),
    [(torch.nn.utils.weight_norm, "weight_v", "weight_g"), (torch.nn.utils.spectral_norm, "weight_orig", None)],
)
def test_a_weight_that_a_hook_computes_is_refused(norm: Any, stored: str, left: str | None) -> None:
    names = {"phi": f"fused.{stored}.T", "bias": "fused.bias", "alpha": "alpha"}
    with pytest.raises(AdapterError, match=rf"weight of Hooked is computed of fused\.{stored} by a hook .*remove_"):
        from_module(lambda n, c: Hooked(n, c, norm), names, dialect=PAPER, constants=[f"fused.{left}"] if left else [])


class KeptInAList(Plain):
    """Its forward reads a list that holds the parameters a second time."""

    def __init__(self, n: int, channels: int) -> None:
        super().__init__(n, channels)
        self.all = [self.phi, self.bias, self.alpha]

    @property
    def params(self) -> Params:
        return Params(*self.all)


class KeptAsAView(Plain):
    """Its forward reads a transposed view of the data of phi."""

    def __init__(self, n: int, channels: int) -> None:
        super().__init__(n, channels)
        self.transposed = self.phi.data.mT

    @property
    def params(self) -> Params:
        return Params(self.transposed.mT, self.bias, self.alpha)


class KeptInAClosure(Plain):
    """Its forward asks a function for the bias."""

    def __init__(self, n: int, channels: int) -> None:
        super().__init__(n, channels)
        bias = self.bias
        self.ask = lambda: bias

    @property
    def params(self) -> Params:
        return Params(self.phi, self.ask(), self.alpha)


@pytest.mark.parametrize("kind", [KeptInAList, KeptAsAView, KeptInAClosure])
def test_a_parameter_that_is_kept_in_a_second_place_is_no_fault_of_the_module(kind: type[Plain]) -> None:
    with pytest.raises(AdapterError, match=rf"{kind.__name__} reads what .* holds even where other values stand for"):
        from_module(kind, NAMES, dialect=PAPER)


@pytest.mark.slow
def test_a_parameter_that_was_copied_and_is_never_read_again_is_a_fault_of_the_module(tmp_path: Path) -> None:
    class Stale(Plain):
        def __init__(self, n: int, channels: int) -> None:
            super().__init__(n, channels)
            self.copied = self.phi.detach().clone()

        @property
        def params(self) -> Params:
            return Params(self.copied.to(self.bias), self.bias, self.alpha)

    target = from_module(Stale, NAMES, dialect=PAPER)
    assert verdict(target, "coefficients.agrees-with-oracle", tmp_path).status == "failed"


def test_trying_what_a_module_reads_leaves_its_parameters_as_they_were() -> None:
    made = Plain(2, 2)
    before = {name: one.detach().clone() for name, one in made.named_parameters()}
    others = {size: Plain(*size) for size in [(2, 1), (2, 3)]}
    from_module(lambda n, c: others.get((n, c), made), NAMES, dialect=PAPER, streams=(2,))
    for name, one in made.named_parameters():
        torch.testing.assert_close(one.detach(), before[name], rtol=0, atol=0)


def remade(n: int, channels: int, kind: type[Plain], **parameters: Tensor) -> nn.Module:
    module = kind(n, channels)
    for name, value in parameters.items():
        setattr(module, name, nn.Parameter(value))
    return module


@pytest.mark.parametrize(
    ("make", "names", "message"),
    [
        (
            Parametrised,
            LINEAR,
            r"fused\.weight of Parametrised is computed by a parametrization, .*remove_parametrizations",
        ),
        (
            Parametrised,
            {**LINEAR, "phi": "fused.parametrizations.weight.original1.T"},
            r"fused\.weight of Parametrised is computed by a parametrization, of fused\.param.*remove_parametrizations",
        ),
        (
            lambda n, c: remade(n, c, Plain, phi=torch.zeros(n * c, 2 * n + n * n, dtype=torch.complex64)),
            NAMES,
            "phi of Plain is torch.complex64; phi is real",
        ),
        (lambda n, c: Plain(n, c).to("meta"), NAMES, "Plain has parameters or buffers on meta, which hold no values"),
        (lambda n, c: None, NAMES, r"make\(2, 2\) gave NoneType; expected a torch.nn.Module"),
        (lambda n: Plain(n, 4), NAMES, r"make\(2, 2\) raised TypeError: .*takes 1 positional argument"),
        (lambda n, c: Plain(n, c + 1), NAMES, r"phi is \[4, 8\], and phi of Plain is \[6, 8\]: not the same thing"),
        (Plain, {**NAMES, "bias": "bias.T"}, r"bias is \[8\]; 'bias\.T' stands for the transpose of a matrix"),
    ],
    ids=["parametrised", "what is stored", "complex", "meta", "none", "arguments", "other width", "vector transposed"],
)
def test_a_module_whose_parameters_cannot_be_ours_is_refused(make: Any, names: dict[str, str], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        from_module(make, names, dialect=PAPER)


def four_of_eight(n: int, channels: int) -> nn.Module:
    if n not in (2, 4):
        raise ValueError(f"{n} streams")
    if channels % 8:
        raise ValueError(f"{channels} channels")
    return Plain(n, channels)


def test_sizes_that_cannot_be_made_are_answered_with_those_that_can() -> None:
    with pytest.raises(
        AdapterError, match=r"raised ValueError: 2 channels; .* declare streams=\(2, 4\), channel_multiple=8"
    ):
        from_module(four_of_eight, NAMES, dialect=PAPER)
    with pytest.raises(AdapterError, match=r"raised ValueError: 1 streams; .* declare streams=\(2, 4\)$"):
        from_module(four_of_eight, NAMES, dialect=PAPER, channel_multiple=8)
    assert from_module(four_of_eight, NAMES, dialect=PAPER, channel_multiple=8, streams=[4, 2]).streams == (4, 2)


# -- dtypes ------------------------------------------------------------------------------------------------------------


class Pure(Plain):
    """Computes in the dtype of the state, with parameters of that dtype alone, as layers do that never cast."""

    def forward(self, x: Tensor) -> Any:
        _ = x.flatten(-2) @ self.phi  # which matrix products of two dtypes refuse
        c = compute_dtype(x.dtype)
        return mhc_ref.mappings(x, Params(*(one.to(c) for one in (self.phi, self.bias, self.alpha))), PAPER)


class Casting(Plain):
    """Parameters of any dtype, cast to that of the computation."""

    def forward(self, x: Tensor) -> Any:
        c = compute_dtype(x.dtype)
        return mhc_ref.mappings(x, Params(*(one.to(c) for one in (self.phi, self.bias, self.alpha))), PAPER)


def short(kind: type[nn.Module]) -> Callable[[int, int], nn.Module]:
    return lambda n, channels: kind(n, channels).to(torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_module_made_in_bfloat16_that_casts_is_verified_with_our_parameters(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    target = from_module(short(Casting), NAMES, dialect=PAPER)
    is_the_reference(target)
    assert verdict(target, "coefficients.agrees-with-oracle", tmp_path, dtype).status == "passed"


@pytest.mark.parametrize("make", [Pure, short(Pure)], ids=["float32", "bfloat16"])
def test_a_module_that_takes_parameters_of_the_states_dtype_alone_declares_its_dtypes(make: Any) -> None:
    with pytest.raises(
        AdapterError,
        match=r"Pure takes a torch\.bfloat16 state with torch\.bfloat16 parameters only, and the laws hand "
        r"torch\.float32 ones.* Declare dtypes=\(torch\.float64, torch\.float32,\)",
    ):
        from_module(make, NAMES, dialect=PAPER)
    is_the_reference(from_module(make, NAMES, dialect=PAPER, dtypes=(torch.float64, torch.float32)))


# -- what a module gives, and how it is called -------------------------------------------------------------------------


@dataclass
class Given:
    pre: Tensor
    post: Tensor
    res: Tensor
    extra: int = 0


FORMS: dict[str, Callable[[Any], Any]] = {
    "dict": lambda found: found._asdict(),
    "larger dict": lambda found: {**found._asdict(), "logits": 1},
    "dataclass": lambda found: Given(*found),
    "list": list,
}


@pytest.mark.parametrize("form", FORMS)
def test_mappings_may_come_by_name(form: str) -> None:
    class Formed(Plain):
        def forward(self, x: Tensor) -> Any:
            return FORMS[form](super().forward(x))

    is_the_reference(from_module(Formed, NAMES, dialect=PAPER))
    is_the_reference(from_module(Formed, NAMES, dialect=PAPER, token_axes=1))


class Dropping(Plain):
    """Dropout of the state, in training mode."""

    def __init__(self, n: int, channels: int) -> None:
        super().__init__(n, channels)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Any:
        return super().forward(self.drop(x))


class Blocks(Plain):
    def forward(self, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return mhc_ref.block(x, self.params, branch, PAPER)


def returning(what: Callable[[Any], Any]) -> type[Plain]:
    class Returns(Plain):
        def forward(self, x: Tensor) -> Any:
            return what(super().forward(x))

    return Returns


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (
            returning(lambda found: (*found, 1)),
            {},
            r"Returns\(x\) gives tuple; expected \(pre, post, res\).*call=lambda",
        ),
        (returning(lambda found: {"h_pre": found.pre}), {}, r"Returns\(x\) gives dict; expected \(pre, post, res\)"),
        (returning(lambda found: found.res), {}, r"Returns\(x\) gives Tensor; .*or say computes='block'"),
        (returning(lambda found: (*found[:2], None)), {}, r"gives no res; declare emits=\('pre', 'post'\)"),
        (Blocks, {}, r"calling Blocks\(x\) raised TypeError: .*'branch', and not in its own code; .*computes="),
        (Plain, {"computes": "block"}, r"calling Plain\(x, branch\) raised TypeError: .*not in its own code"),
        (
            Plain,
            {"call": lambda module, x: module(x)["pre"]},
            r"calling Plain\(x\) raised TypeError: .*not in its own code",
        ),
        (Dropping, {}, r"Dropping is in training mode and draws random numbers there, .*module\.eval\(\)"),
        (
            Plain,
            {"tune": lambda dialect: {"steps": dialect.steps}},
            "tune raised AttributeError: .*'steps' for Dialect",
        ),
        (Plain, {"tune": lambda dialect: {"steps": 3}}, r"make\(2, 2\) raised TypeError: .*'steps'"),
        (lambda n, channels: nn.Module(), {}, r"Module has no parameter 'phi'; it has none"),
    ],
    ids=[
        "four",
        "other names",
        "one tensor",
        "no res",
        "a block",
        "no block",
        "call",
        "dropout",
        "tune",
        "settings",
        "empty",
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_declare(make: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        from_module(make, NAMES, dialect=PAPER, **arguments)


def test_a_module_in_evaluation_mode_does_not_drop() -> None:
    is_the_reference(from_module(lambda n, channels: Dropping(n, channels).eval(), NAMES, dialect=PAPER))


@pytest.mark.parametrize(
    ("dims", "declare"),
    [((4,), "token_axes=2"), ((3,), "token_axes=1"), ((3, 4), "token_axes=1"), ((2,), "token_axes=0")],
)
def test_a_fixed_number_of_token_axes_is_to_be_declared(dims: tuple[int, ...], declare: str) -> None:
    class Fixed(Plain):
        def forward(self, x: Tensor) -> Any:
            if x.dim() not in dims:
                raise ValueError(f"{x.dim()} dimensions")
            return super().forward(x)

    with pytest.raises(AdapterError, match=f"raised ValueError: . dimensions .* declare {declare}"):
        from_module(Fixed, NAMES, dialect=PAPER)
    is_the_reference(from_module(Fixed, NAMES, dialect=PAPER, token_axes=int(declare[-1])))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"make": Plain(2, 2)}, "make is Plain; expected a function of n and C that makes a module"),
        ({"make": 3}, "make is int; expected a function of n and C"),
        ({"names": ["phi"]}, r"names is \['phi'\]; expected a mapping such as"),
        ({"names": {"phi": 3}}, r"names is \{'phi': 3\}; expected a mapping"),
        ({"dialect": "PAPER"}, "dialect is 'PAPER'; expected a mhc_ref.Dialect"),
        ({"computes": "all"}, "computes is 'all'; expected 'mappings' or 'block'"),
        ({"token_axes": "2"}, "token_axes is '2'; expected a number of axes, or None"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_refused(arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"make": Plain, "names": NAMES, "dialect": PAPER, **arguments}
    with pytest.raises(TypeError, match=message):
        from_module(given.pop("make"), given.pop("names"), **given)


def test_a_limit_that_cannot_be_used_is_refused_and_a_generator_can() -> None:
    with pytest.raises(ValueError, match=r"from_module: \.streams is \(0,\); expected the accepted numbers of streams"):
        from_module(Plain, NAMES, dialect=PAPER, streams=(0,))
    assert from_module(Plain, NAMES, dialect=PAPER, streams=(n for n in (2, 3))).streams == (2, 3)


# -- whose fault it is -------------------------------------------------------------------------------------------------


class Raises(Plain):
    def forward(self, x: Tensor) -> Any:
        if x.shape[-2] == 3:
            raise RuntimeError("not with three")
        return super().forward(x)


def test_what_the_module_raises_is_its_failure(tmp_path: Path) -> None:
    found = verdict(from_module(Raises, NAMES, dialect=PAPER), "coefficients.agrees-with-oracle", tmp_path)
    assert found.status == "failed"
    assert "mappings raised RuntimeError: not with three" in found.reason


def test_what_the_adapter_cannot_do_during_a_run_is_an_error_of_the_harness(tmp_path: Path) -> None:
    def make(n: int, channels: int) -> nn.Module:
        if channels > 3:
            raise ValueError("too wide")
        return Plain(n, channels)

    target = from_module(make, NAMES, dialect=PAPER)
    with pytest.raises(HarnessError, match=r"make\(\d, \d+\) raised ValueError: too wide"):
        verdict(target, "coefficients.agrees-with-oracle", tmp_path)


def test_what_a_module_gives_only_sometimes_is_its_failure(tmp_path: Path) -> None:
    class Sometimes(Plain):
        def forward(self, x: Tensor) -> Any:
            found = super().forward(x)
            return None if x.shape[-1] > 3 else found

    for axes in (None, 1):
        target = from_module(Sometimes, NAMES, dialect=PAPER, token_axes=axes)
        found = verdict(target, "coefficients.agrees-with-oracle", tmp_path)
        assert (found.status, found.reason) == (
            "failed",
            "mappings returned NoneType; expected Mappings(pre, post, res)",
        )


def test_results_for_other_tokens_than_were_given_are_the_modules_failure(tmp_path: Path) -> None:
    target = from_module(
        returning(lambda found: found._replace(pre=found.pre[..., :1, :])), NAMES, dialect=PAPER, token_axes=2
    )
    found = verdict(target, "coefficients.agrees-with-oracle", tmp_path)
    assert found.status == "failed"


def test_a_block_that_hands_its_branch_something_else_is_at_fault(tmp_path: Path) -> None:
    class Odd(Plain):
        def forward(self, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            return mhc_ref.block(x, self.params, lambda u: branch(u[..., :1]).expand(u.shape), PAPER)

    target = from_module(Odd, NAMES, dialect=PAPER, computes="block", token_axes=1)
    found = verdict(target, "block.agrees-with-oracle", tmp_path)
    assert found.status == "failed"
    x, params = state()
    with pytest.raises(RuntimeError):
        target.block(x, params, BranchSpec("identity"))


def test_a_module_is_made_once_for_a_size() -> None:
    made: list[tuple[int, int]] = []

    def make(n: int, channels: int) -> nn.Module:
        made.append((n, channels))
        return Plain(n, channels)

    target = from_module(make, NAMES, dialect=PAPER)
    made.clear()
    for _ in range(3):
        is_the_reference(target)
    assert made == [(3, 4)]


def test_making_an_adapter_draws_nothing_from_the_global_generator() -> None:
    def make(n: int, channels: int) -> nn.Module:
        made = Plain(n, channels)
        nn.init.normal_(made.phi)
        return made

    before = torch.get_rng_state()
    from_module(make, NAMES, dialect=PAPER)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.slow
def test_what_the_adapter_cannot_do_is_an_error_of_the_harness_in_another_process_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wide.py").write_text(WIDE)
    monkeypatch.chdir(tmp_path)
    target = isolated("wide.py:target")
    with pytest.raises(HarnessError, match=r"make\(\d, \d+\) raised ValueError: too wide"):
        verdict(target, "coefficients.agrees-with-oracle", tmp_path)


def test_what_an_adapter_refuses_while_a_file_is_imported_is_said_of_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wide.py").write_text(WIDE.replace("channels > 3", "channels > 1"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        TargetError, match=r"wide\.py:target: importing wide\.py raised AdapterError: from_module: make\(2, 2\)"
    ):
        resolve("wide.py:target")


WIDE = """
import torch
import mhc_ref
from mhc_ref import PAPER, Params
from properties.targets.modules import from_module

class Plain(torch.nn.Module):
    def __init__(self, n, channels):
        super().__init__()
        if channels > 3:
            raise ValueError("too wide")
        self.phi = torch.nn.Parameter(torch.zeros(n * channels, 2 * n + n * n))
        self.bias = torch.nn.Parameter(torch.zeros(2 * n + n * n))
        self.alpha = torch.nn.Parameter(torch.ones(3))

    def forward(self, x):
        return mhc_ref.mappings(x, Params(self.phi, self.bias, self.alpha), PAPER)

target = from_module(Plain, {"phi": "phi", "bias": "bias", "alpha": "alpha"}, dialect=PAPER)
"""
