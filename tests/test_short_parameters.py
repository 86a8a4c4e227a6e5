"""Parameters that are stored in the dtype of the state, as after `model.to(torch.bfloat16)`: handed over so, and judged
so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import mhc_ref
from mhc_ref import DEEPSEEK_V4, PAPER, PRESETS, QWEN4_EXP, Branch, Dialect, Mappings, Params
from mhc_ref.packing import logit_sizes, params_shapes
from properties import bounds
from properties.catalogue import controls
from properties.core.case import BranchSpec, Case
from properties.core.deviant import Deviant, through
from properties.core.handing import handing, is_storable, storable
from properties.core.implementation import Implementation, Reference, offers
from properties.core.law import all_laws
from properties.core.pulling import pulled_back
from properties.core.reads import mapping_shapes
from properties.core.rounding import Approx, Rounding
from properties.core.trial import FloatTruth, Trial
from properties.diagnosis.view import Frame, View
from properties.engine.counterexample import Counterexample
from properties.engine.fitting import outside
from properties.engine.runner import Profile, Subject, Verdict, examine
from properties.guards.faults import AdapterError, HarnessError, TargetFault
from properties.laws.errors import by_parameters
from properties.strategies import Setting
from properties.targets.isolation import isolated
from properties.targets.modules import from_module
from properties.targets.target import resolve

ROOT = Path(__file__).parents[1]

SHORT = [torch.bfloat16, torch.float16]


class Stored(Deviant):
    """Parameters in the dtype of the state, widened before anything is computed of them."""

    parameters = "state"
    dtypes = (torch.float32, torch.bfloat16, torch.float16)


class Told(Stored):
    """Notes in which dtypes it is handed its parameters, by what is asked of it."""

    def prepare(self) -> None:
        self.seen: list[tuple[str, torch.dtype]] = []

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        self.seen.append(("mappings", params.phi.dtype))
        return super().mappings(x, params)

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        self.seen += [("layers", part.dtype) for one in params for part in one if part is not None]
        return super().layers(x, params, branches)

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        self.seen += [("collapse", part.dtype) for part in params or () if part is not None]
        return super().collapse(x, params)


def drawn(
    dialect: Dialect, dtype: torch.dtype, seed: int = 0, tokens: int = 5, n: int = 3, channels: int = 8
) -> tuple[Tensor, Params]:
    """A state, and parameters in the compute dtype with values of the state's."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    shapes = params_shapes(n, channels, dialect)
    phi = normal(*shapes.phi) / shapes.phi[0] ** 0.5
    params = Params(phi, normal(*shapes.bias), 0.5 + normal(*shapes.alpha).abs(), 1 + normal(n * channels) / 4)
    wide = Params(*(one.float() for one in params if one is not None))
    return normal(tokens, n, channels).to(dtype), storable(wide, dtype)


def verdict(
    implementation: Implementation,
    law: str,
    directory: Path,
    dtype: torch.dtype = torch.bfloat16,
    examples: int = 3,
) -> Verdict:
    subject = Subject("target", implementation, dtype, torch.device("cpu"))
    profile = Profile(examples=examples, derandomise=True, shrink=False)
    return examine(all_laws()[law], subject, profile, directory=directory)


def trial_of(implementation: Implementation, dtype: torch.dtype) -> Trial:
    return Trial(implementation, dtype, torch.device("cpu"), FloatTruth(implementation.dialect))


# -- handed over ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *SHORT])
def test_every_method_is_handed_its_parameters_in_the_dtype_of_the_state(dtype: torch.dtype) -> None:
    target = Told(DEEPSEEK_V4)
    target.dtypes = (dtype,)
    x, params = drawn(DEEPSEEK_V4, dtype)
    params = Params(
        *(one.to(torch.float64 if dtype == torch.float64 else torch.float32) for one in params if one is not None)
    )
    trial = trial_of(target, dtype)
    trial.mappings(x, params)
    trial.layers(x, [params], [BranchSpec("identity")])
    trial.collapse(x, params)
    trial.block(x, params, BranchSpec("identity"))
    trial.stack(x[:, 0], [params, params], [BranchSpec("zero")])
    assert {name for name, _ in target.seen} == {"mappings", "layers", "collapse"}
    assert {found for _, found in target.seen} == {dtype}


def test_an_implementation_that_stores_them_as_it_computes_is_handed_them_as_before() -> None:
    target = Told(PAPER)
    target.parameters = "compute"
    assert handing(target) is target
    x, params = drawn(PAPER, torch.bfloat16)
    trial_of(target, torch.bfloat16).mappings(x, params)
    assert target.seen == [("mappings", torch.float32)]


def test_what_hands_them_over_offers_what_the_implementation_does() -> None:
    for one in (Told(PAPER), Stored(DEEPSEEK_V4), controls.build("float64-inside")):
        one.parameters = "state"
        assert offers(handing(one)) == offers(one)
    made = handing(Told(PAPER).tuned(iterations=3))
    assert made.dialect.iterations == 3
    assert handing(made) is made


def test_values_that_are_not_those_of_the_dtype_are_a_fault_of_ours() -> None:
    x, params = drawn(PAPER, torch.bfloat16)
    odd = params._replace(bias=params.bias + 2.0**-12)
    assert is_storable(params, torch.bfloat16)
    assert not is_storable(odd, torch.bfloat16)
    with pytest.raises(HarnessError, match=r"have values that torch\.bfloat16 does not have"):
        trial_of(Stored(PAPER), torch.bfloat16).mappings(x, odd)


def test_values_beyond_the_range_of_the_dtype_become_its_largest() -> None:
    huge = Params(torch.tensor([[1e30, -1e30, 1e-30]]), torch.tensor([65519.0]), torch.ones(3))
    kept = storable(huge, torch.float16)
    assert kept.phi.tolist() == [[65504.0, -65504.0, 0.0]]
    assert kept.bias.tolist() == [65504.0]
    assert kept.phi.dtype == torch.float32


def test_every_case_has_values_that_can_be_stored() -> None:
    setting = Setting(PAPER, (3,), torch.bfloat16, parameters="state")
    x, params = torch.ones(1, 3, 2), Params(torch.full((6, 15), 0.1), torch.full((15,), 0.1), torch.full((3,), 0.1))
    case = setting.stored(Case(x=x, params=(params, params), head=params, wider=(x, params), bias=params.bias))
    for one in (*case.params, case.head, case.wider[1]):
        assert is_storable(one, torch.bfloat16)
    assert float(case.bias[0]) == float(torch.tensor(0.1).bfloat16())
    assert setting.with_(parameters="compute").stored(case) is case


@pytest.mark.slow
def test_logits_are_computed_and_so_are_not_stored(tmp_path: Path) -> None:
    """A projection of its own takes logits in the compute dtype; one that goes through a stored bias cannot."""
    own = Stored(PAPER)
    own.dtypes = (torch.bfloat16,)
    assert verdict(own, "manifold.agrees-with-oracle", tmp_path).status == "passed"

    class Derived(Implementation):
        dialect = PAPER
        parameters = "state"
        dtypes = (torch.bfloat16,)

        def mappings(self, x: Tensor, params: Params) -> Mappings:
            return mhc_ref.mappings(x, params, PAPER)

    found = verdict(Derived(), "manifold.agrees-with-oracle", tmp_path)
    assert (found.status, found.reason) == (
        "not-applicable",
        "project is derived from a bias, which is stored in bfloat16, and logits are not",
    )
    assert verdict(Derived(), "coefficients.agrees-with-oracle", tmp_path).status == "passed"


# -- bounds -----------------------------------------------------------------------------------------------------------


def pulled(target: Implementation, x: Tensor, params: Params, bars: Sequence[Tensor]) -> list[Tensor]:
    leaves = [one.clone().requires_grad_() for one in (x, *params) if one is not None]
    made = handing(target)
    return pulled_back(list(made.mappings(leaves[0], Params(*leaves[1:]))), leaves, list(bars))


def ratios(dialect: Dialect, dtype: torch.dtype, seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """error / bound of the gradient by each parameter, and the same without the rounding of what is stored."""
    x, params = drawn(dialect, dtype, seed)
    generator = torch.Generator().manual_seed(seed + 1000)
    bars = [torch.randn(shape, generator=generator) for shape in mapping_shapes(tuple(x.shape), dialect)]
    found: list[dict[str, float]] = []
    for r in (Rounding.of_declared(Stored(dialect), dtype), Rounding.of(dtype)):
        pre, post, res = map(Approx.exact, bars)
        bound = bounds.coefficients_gradient(Approx.exact(x), params, pre, post, res, dialect, r)
        parts = zip(Params._fields, pulled(Stored(dialect), x, params, bars)[1:], bound[1:], strict=True)
        found.append({name: _ratio(got, approx) for name, got, approx in parts})
    return found[0], found[1]


def _ratio(got: Tensor, approx: Approx) -> float:
    apart = (got.double().reshape(approx.value.shape) - approx.value).abs()
    return float(torch.where(apart == 0, 0.0, apart / approx.error).max())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", SHORT, ids=str)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_bound_of_a_stored_gradient_is_sound(preset: str, dtype: torch.dtype) -> None:
    for seed in range(4):
        assert max(ratios(PRESETS[preset], dtype, seed)[0].values()) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("dtype", SHORT, ids=str)
def test_the_bound_of_a_stored_gradient_is_sharp_and_more_than_none(dtype: torch.dtype) -> None:
    """It is nearly attained by every parameter, and without it a correct implementation were accused."""
    stored, computed = zip(*(ratios(PAPER, dtype, seed) for seed in range(12)), strict=True)
    for name in Params._fields:
        assert max(one[name] for one in stored) > 0.4, name
        assert max(one[name] for one in computed) > 1, name


def test_a_parameter_that_is_used_twice_is_rounded_twice() -> None:
    """The norm weight of a read of every channel is that of its logits and of the state that it reads."""
    for seed in range(12):
        assert max(ratios(QWEN4_EXP, torch.bfloat16, seed)[0].values()) <= 1


@pytest.mark.slow
def test_parts_of_a_batch_have_bounds_of_their_own() -> None:
    """Gradients of two halves that cancel are rounded at their own sizes."""
    x, params = drawn(PAPER, torch.bfloat16, tokens=2)
    law = all_laws()["gradient.every-token-pulls-back-through-the-mappings"]
    x = torch.cat([x[:1], x[:1]])
    generator = torch.Generator().manual_seed(7)
    bars = [torch.randn(shape, generator=generator) for shape in mapping_shapes((1, 3, 8), PAPER)]
    bars = tuple(torch.cat([bar, -bar * (1 - 2.0**-12)]) for bar in bars)
    trial = trial_of(Stored(PAPER), torch.bfloat16)
    law.judge(trial, Case(x=x, params=params, cotangents=bars))
    assert trial.worst <= 1
    pre, post, res = map(Approx.exact, bars)
    found = bounds.coefficients_gradient(Approx.exact(x), params, pre, post, res, PAPER, trial.rounding)
    whole = by_parameters(found, x, params)
    halves = [pulled(Stored(PAPER), x[k : k + 1], params, [bar[k : k + 1] for bar in bars])[1] for k in (0, 1)]
    both = pulled(Stored(PAPER), x, params, bars)[1]
    assert ((both - halves[0] - halves[1]).abs() > 2 * whole[1]).any()  # the bound of the whole would accuse it


# -- what is wrong with short parameters is seen ----------------------------------------------------------------------


class ProductsAsStored(Stored):
    """The normalised state is rounded to the dtype of phi before they are multiplied."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        self.stored = params.phi.dtype
        return super().mappings(x, params)

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        return super().matmul(through(state, self.stored), phi)


class GatesFolded(Stored):
    """phi is multiplied by its gates before it is widened."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        sizes = logit_sizes(x.shape[-2], self.computed)
        gates = torch.cat([gate.expand(size) for gate, size in zip(params.alpha, sizes, strict=True)])
        return super().mappings(x, params._replace(phi=params.phi * gates, alpha=torch.ones_like(params.alpha)))


class OffsetAsStored(Stored):
    """1 + w is computed in the dtype of the weight."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        self.stored = params.phi.dtype
        return super().mappings(x, params)

    def weighted(self, unit: Tensor, weight: Tensor) -> Tensor:
        return unit * (self.computed.norm_offset + weight.to(self.stored)).to(unit.dtype)


class TokensAddedAsStored(Stored):
    """The gradients by phi of eight parts of a batch are added in the dtype in which phi is stored."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        if x.ndim != 3 or len(x) < 8:
            return super().mappings(x, params)
        parts = [super(TokensAddedAsStored, self).mappings(one, params) for one in x.chunk(8)]
        return Mappings(*(torch.cat(each) for each in zip(*parts, strict=True)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "dialect", "law"),
    [
        (ProductsAsStored, PAPER, "coefficients.agrees-with-oracle"),
        (GatesFolded, PAPER, "coefficients.agrees-with-oracle"),
        (OffsetAsStored, PAPER.with_(norm_offset=1.0), "coefficients.agrees-with-oracle"),
        (TokensAddedAsStored, PAPER, "gradient.every-token-pulls-back-through-the-mappings"),
    ],
)
def test_a_stage_in_the_dtype_of_the_parameters_is_seen(
    kind: type[Stored], dialect: Dialect, law: str, tmp_path: Path
) -> None:
    assert verdict(Stored(dialect), law, tmp_path).status == "passed"
    assert verdict(kind(dialect), law, tmp_path, examples=10).status == "failed"


# -- the doors --------------------------------------------------------------------------------------------------------


class Module(nn.Module):
    """Takes a state and parameters of one dtype alone, and computes in float32."""

    def __init__(self, n: int, channels: int) -> None:
        super().__init__()
        self.phi = nn.Parameter(torch.zeros(n * channels, 2 * n + n * n))
        self.bias = nn.Parameter(torch.zeros(2 * n + n * n))
        self.alpha = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Mappings:
        assert x.dtype == self.phi.dtype, f"{x.dtype} and {self.phi.dtype}"
        return mhc_ref.mappings(x, Params(self.phi, self.bias, self.alpha), PAPER)


NAMES = {"phi": "phi", "bias": "bias", "alpha": "alpha"}


@pytest.mark.slow
def test_a_module_that_takes_parameters_of_the_states_dtype_is_declared_so(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="or parameters='state' where it stores them so"):
        from_module(Module, NAMES, dialect=PAPER)
    target = from_module(Module, NAMES, dialect=PAPER, parameters="state")
    for law in ("coefficients.agrees-with-oracle", "gradient.mappings-pull-back-to-state-and-parameters"):
        for dtype in (torch.float32, torch.bfloat16):
            assert verdict(target, law, tmp_path, dtype).status == "passed"


@pytest.mark.slow
def test_another_process_is_handed_them_so(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\nfrom mhc_ref import PAPER, mappings\nfrom properties import Implementation\n\n\n"
        "class Mine(Implementation):\n    dialect = PAPER\n    parameters = 'state'\n    dtypes = (torch.bfloat16,)\n\n"
        "    def mappings(self, x, params):\n"
        "        assert {one.dtype for one in params if one is not None} == {x.dtype}\n"
        "        return mappings(x, params, PAPER)\n"
    )
    target = isolated(f"{file}:Mine")
    assert target.parameters == "state"
    assert verdict(target, "gradient.mappings-pull-back-to-state-and-parameters", tmp_path).status == "passed"


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("HyV4", torch.bfloat16), ("HyV4", torch.float16), ("DeepseekV4", torch.bfloat16)],
)
@pytest.mark.slow
def test_the_modules_of_transformers_may_be_cast_to_the_dtype_of_the_state(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
    target = resolve(f"{ROOT}/examples/short_parameters.py:{name}")
    laws = ["coefficients.agrees-with-oracle", "block.agrees-with-oracle"]
    laws += ["gradient.mappings-pull-back-to-state-and-parameters"]
    for law in laws:
        assert verdict(target, law, tmp_path, dtype).status == "passed"


def test_a_counterexample_replays_where_its_parameters_can_be_stored(tmp_path: Path) -> None:
    found = verdict(ProductsAsStored(PAPER), "coefficients.agrees-with-oracle", tmp_path)
    assert found.counterexample is not None
    case = Counterexample.load(found.counterexample).case
    assert outside(case, Stored(PAPER), torch.bfloat16) is None
    finer = case.with_(params=case.params._replace(bias=case.params.bias + 2.0**-20))
    assert outside(finer, Reference(PAPER), torch.bfloat16) is None
    reason = outside(finer, Stored(PAPER, "mine"), torch.bfloat16)
    assert reason == "the parameters of the case have values that bfloat16 does not have; mine stores them in it"


def test_a_diagnosis_does_not_ask_with_what_cannot_be_stored() -> None:
    target = Stored(PAPER)
    view = View(target, Frame.of(target, torch.bfloat16))
    x, params = drawn(PAPER, torch.bfloat16)
    assert len(view.mappings(x, params)) == 3
    with pytest.raises(TargetFault, match="parameters are stored in bfloat16"):
        view.mappings(x, params._replace(bias=params.bias + 2.0**-20))
    assert view.calls == 1
