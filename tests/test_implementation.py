"""What is derived from what an implementation offers, what is absent, and that the derived is the defined."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence

import pytest
import torch
from test_deviations import branch, generic_params, normal
from torch import Tensor

import mhc_ref
import properties
from mhc_ref import DEEPSEEK_V4, MHC_LITE, PAPER, PRESETS, Branch, Dialect, Mappings, Params
from mhc_ref.packing import logits_shape
from properties.core.implementation import METHODS, Absent, Implementation, Projection, Reference, dtype_names, offers
from properties.core.law import all_laws

N, C = 3, 5
DIALECTS = pytest.mark.parametrize("dialect", PRESETS.values(), ids=PRESETS)


class Pieces(Implementation):
    """Mappings, pre and post."""

    def __init__(self, dialect: Dialect = PAPER) -> None:
        self.dialect = dialect

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return mhc_ref.mappings(x, params, self.dialect)

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return mhc_ref.pre(x, h_pre)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return mhc_ref.post(x, y, h_post, h_res, self.dialect)


class Layers(Implementation):
    """Nothing but L blocks at once."""

    def __init__(self, dialect: Dialect = PAPER) -> None:
        self.dialect = dialect

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        return mhc_ref.layers(x, params, branches, self.dialect)


class Block(Implementation):
    """Nothing but one block."""

    def __init__(self, dialect: Dialect = PAPER) -> None:
        self.dialect = dialect

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        return mhc_ref.block(x, params, branch, self.dialect)


@DIALECTS
@pytest.mark.parametrize("tokens", [(), (0,), (5,), (2, 3), (2, 0)])
def test_a_projection_is_read_off_the_mappings_for_any_token_axes(dialect: Dialect, tokens: tuple[int, ...]) -> None:
    logits = normal(*tokens, *logits_shape(N, dialect))
    found = Pieces(dialect).project(logits)
    assert found.shape == (*tokens, N, N)
    assert torch.allclose(found, mhc_ref.project(logits, dialect), rtol=0, atol=1e-15)


@DIALECTS
@pytest.mark.parametrize("made_of", [Pieces, Layers])
def test_a_block_is_composed_of_its_pieces_or_one_of_many(made_of: type[Pieces | Layers], dialect: Dialect) -> None:
    x, params = normal(4, N, C), generic_params(dialect, N, C)
    assert torch.equal(made_of(dialect).block(x, params, branch), mhc_ref.block(x, params, branch, dialect))


@DIALECTS
@pytest.mark.parametrize("made_of", [Pieces, Layers, Block])
def test_a_stack_expands_runs_every_block_and_collapses(
    made_of: type[Pieces | Layers | Block], dialect: Dialect
) -> None:
    h = normal(4, C)
    params = [generic_params(dialect, N, C, seed=seed) for seed in range(2 + (dialect.collapse == "head"))]
    made = made_of(dialect)
    if dialect.read_from == "previous" and made_of is not Pieces:  # what shows no h_pre hands none on
        assert "stack" not in offers(made)
        return
    found = made.stack(h, params, [branch, torch.tanh])
    assert torch.equal(found, mhc_ref.stack(h, params, [branch, torch.tanh], dialect))


@pytest.mark.parametrize(
    ("implementation", "expected"),
    [
        (Implementation(), {}),
        (
            Pieces(),
            {
                "mappings": "own",
                "pre": "own",
                "post": "own",
                "project": "derived from mappings",
                "block": "derived from mappings, pre, post",
                "layers": "derived from block",
                "stack": "derived from layers",
            },
        ),
        (Layers(), {"layers": "own", "block": "derived from layers", "stack": "derived from layers"}),
        (Block(), {"block": "own", "layers": "derived from block", "stack": "derived from layers"}),
        (Projection(torch.exp, PAPER, "exp"), {"project": "own"}),
        (Reference(), dict.fromkeys(METHODS, "own")),
    ],
    ids=["nothing", "pieces", "layers", "block", "projection", "reference"],
)
def test_what_is_offered_is_said_and_how(implementation: Implementation, expected: dict[str, str]) -> None:
    assert offers(implementation) == expected


def test_a_method_may_be_given_to_an_instance() -> None:
    implementation = Implementation()
    implementation.project = torch.exp  # pyright: ignore[reportAttributeAccessIssue]
    assert offers(implementation) == {"project": "own"}


@pytest.mark.parametrize("emits", [("pre", "post"), ("res",), ("pre", "res")])
def test_nothing_is_derived_from_mappings_that_are_not_emitted(emits: tuple[str, ...]) -> None:
    implementation = Pieces()
    implementation.emits = emits
    found = offers(implementation)
    assert ("project" in found) == ("res" in emits)
    assert not {"block", "layers", "stack"} & set(found)


@pytest.mark.parametrize("method", ["project", "mappings", "pre", "post", "block", "layers", "stack"])
def test_what_cannot_be_derived_is_absent_by_name(method: str) -> None:
    x, params = normal(4, N, C), generic_params(PAPER, N, C)
    arguments = {
        "project": (normal(4, N, N),),
        "mappings": (x, params),
        "pre": (x, normal(4, N)),
        "post": (x, normal(4, C), normal(4, N), normal(4, N, N)),
        "block": (x, params, branch),
        "layers": (x, [params], [branch]),
        "stack": (normal(4, C), [params], [branch]),
    }
    with pytest.raises(Absent, match=rf"^{'block' if method in ('layers', 'stack') else method}: .*offered"):
        getattr(Implementation(), method)(*arguments[method])


def test_only_declared_knobs_can_be_turned() -> None:
    with pytest.raises(Absent, match=r"tuned: \['iterations'\] cannot be changed; `tunable` is \[\]"):
        Implementation().tuned(iterations=3)
    assert Reference().tuned(iterations=3).dialect == PAPER.with_(iterations=3)


@pytest.mark.parametrize(
    ("dtypes", "names"),
    [((torch.float32, "bfloat16"), ("float32", "bfloat16")), (("torch.float64",), ("float64",)), ((), ())],
)
def test_dtypes_are_known_by_name(dtypes: tuple, names: tuple[str, ...]) -> None:
    implementation = Implementation()
    implementation.dtypes = dtypes
    assert dtype_names(implementation) == names


@pytest.mark.parametrize("entry", [torch.int64, "float33", "Tensor", None, 32])
def test_what_is_no_floating_dtype_is_refused(entry: object) -> None:
    implementation = Implementation()
    implementation.dtypes = (entry,)
    with pytest.raises(TypeError, match="expected floating torch dtypes or their names"):
        dtype_names(implementation)


def refused(implementation: Implementation, law: str, dtype: torch.dtype = torch.float32) -> str:
    reason = all_laws()[law].inapplicable(implementation, dtype)
    assert reason is not None
    return reason


def test_a_law_says_why_it_does_not_apply() -> None:
    reference = Reference()
    assert all_laws()["manifold.last-axis-sums"].inapplicable(reference, torch.float32) is None
    assert refused(Layers(), "manifold.last-axis-sums") == "does not offer project"
    assert refused(Reference(PRESETS["HYPER_CONNECTIONS"]), "manifold.last-axis-sums") == (
        "h_res is unconstrained, not projected by Sinkhorn"
    )
    assert refused(reference, "manifold.last-axis-sums", torch.bfloat16) == (
        "logits are float32 for bfloat16 states: covered by float32"
    )
    lonely = Reference()
    lonely.streams = (1,)
    assert refused(lonely, "manifold.half-step-convergence") == "says nothing below n = 2"
    racing = Reference()
    racing.deterministic = False
    assert refused(racing, "execution.projection-is-deterministic") == "deterministic is not declared"
    frozen = Reference()
    frozen.differentiable = False
    gradient = next(one.id for one in all_laws().values() if "differentiable" in one.declared)
    assert refused(frozen, gradient) == "declared as not differentiable"


def test_bfloat16_alone_is_not_covered_by_float32() -> None:
    narrow = Reference()
    narrow.dtypes = ("bfloat16",)
    assert all_laws()["manifold.last-axis-sums"].inapplicable(narrow, torch.bfloat16) is None


def test_head_parameters_are_the_last_of_a_derived_stack() -> None:
    params = [generic_params(DEEPSEEK_V4, N, C, seed=seed) for seed in range(2)]
    other = [params[0], generic_params(DEEPSEEK_V4, N, C, seed=9)]
    h = normal(2, C)
    stacked = [Pieces(DEEPSEEK_V4).stack(h, given, [branch]) for given in (params, other)]
    assert not torch.equal(*stacked)


def test_the_reference_of_permutations_declares_what_it_can_mix() -> None:
    assert max(Reference(MHC_LITE).streams) == 5


def test_a_public_name_is_no_module_of_the_same_name() -> None:
    """Importing a submodule binds it in the package, where it would hide a lazily loaded name."""
    modules = {module.name for module in pkgutil.iter_modules(properties.__path__)}
    assert modules.isdisjoint(properties.__all__)
    assert all(getattr(properties, name).__name__ for name in properties.__all__ if name != "PROFILES")
