"""Implementations that offer a part alone, `mappings` or `pre` and `post`, are held to as much as whole blocks."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import mhc_ref
from mhc_ref import DEEPSEEK_V4, MHC_LITE, PAPER, RESIDUAL, Dialect, Mappings, Params
from mhc_ref.block import gated_logits
from properties.catalogue import controls
from properties.core.case import BranchSpec, Case, map_tensors
from properties.core.implementation import Implementation, Reference, project_from_mappings
from properties.core.law import FAMILIES, all_laws, family_laws
from properties.core.trial import ContractBroken, LawBroken, same_numbers
from properties.diagnosis import identify
from properties.engine.runner import Profile, Subject, Verdict, examine, try_case

QUICK = Profile(examples=16, derandomise=True, shrink=False)

Change = Callable[..., Any]


def offering(*methods: str, dialect: Dialect = PAPER, change: Change | None = None) -> Implementation:
    """Those methods of the reference alone, each called through `change(method, function, *arguments)`."""
    functions: dict[str, Callable[..., Any]] = {
        "project": lambda z: mhc_ref.project(z, dialect),
        "mappings": lambda x, params: mhc_ref.mappings(x, params, dialect),
        "pre": mhc_ref.pre,
        "post": partial(mhc_ref.post, dialect=dialect),
        "stack": partial(mhc_ref.stack, dialect=dialect),
    }

    def method(name: str) -> Callable[..., Any]:
        def call(self: Implementation, *given: Any) -> Any:
            return change(name, functions[name], *given) if change else functions[name](*given)

        return call

    space = {"dialect": dialect, "name": "partial", **{name: method(name) for name in methods}}
    return type("Partial", (Implementation,), space)()


def verdict(law: str, implementation: Implementation, directory: Path, dtype: torch.dtype = torch.float32) -> Verdict:
    return examine(
        all_laws()[law], Subject("partial", implementation, dtype, torch.device("cpu")), QUICK, directory=directory
    )


MAPPINGS = (
    "execution.every-token-has-its-mappings",
    "execution.mappings-have-no-memory",
    "execution.poison-reaches-the-mappings",
    "coefficients.gates-stay-in-their-range",
)
PARTS = (
    "execution.pre-and-post-leave-their-inputs-alone",
    "execution.pre-and-post-have-no-memory",
    "execution.every-token-is-read-and-mixed",
    "execution.poison-passes-pre-and-post",
    "gradient.pre-and-post-pull-back-to-every-factor",
)


@pytest.mark.slow
@pytest.mark.parametrize("law", [*MAPPINGS, *PARTS])
def test_a_correct_part_alone_passes(law: str, tmp_path: Path) -> None:
    part = offering("mappings") if law in MAPPINGS else offering("pre", "post", dialect=DEEPSEEK_V4)
    assert verdict(law, part, tmp_path, torch.bfloat16).status == "passed"


def parts(found: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    return Mappings(*(function(one) for one in found)) if isinstance(found, Mappings) else function(found)


def tail_unwritten(name: str, function: Change, *given: Any) -> Any:
    def cut(found: torch.Tensor) -> torch.Tensor:
        many = found.ndim > (3 if name == "post" else 2) - (name == "pre") and len(found) > 64
        return torch.cat([found[:64], torch.zeros_like(found[64:])]) if many else found

    return parts(function(*given), cut)


def empty_refused(name: str, function: Change, *given: Any) -> Any:
    if not given[0].numel():
        raise RuntimeError("the grid has 0 blocks")
    return function(*given)


def nan_hidden(name: str, function: Change, *given: Any) -> Any:
    return parts(function(*given), torch.nan_to_num)


def overwritten(name: str, function: Change, *given: Any) -> Any:
    found = function(*given)
    given[-1].data.mul_(0.5)
    return found


def detached(name: str, function: Change, *given: Any) -> Any:
    return function(given[0].detach(), *given[1:])


def unequal(name: str, function: Change, *given: Any) -> Any:
    return parts(function(*given), lambda found: found * (1 + 1e-6 * torch.rand_like(found)))


def buffer_reused() -> Change:
    kept: dict[Any, torch.Tensor] = {}

    def change(name: str, function: Change, *given: Any) -> Any:
        def written(found: torch.Tensor) -> torch.Tensor:
            return kept.setdefault((name, found.shape, found.dtype), torch.empty_like(found)).copy_(found.detach())

        return parts(function(*given), written)

    return change


def weights_folded_once() -> Change:
    folded: dict[tuple[int, torch.Size], Params] = {}

    def change(name: str, function: Change, x: torch.Tensor, params: Params) -> Any:
        copy: Params = map_tensors(params, torch.clone)
        return function(x, folded.setdefault((params.phi.data_ptr(), params.phi.shape), copy))

    return change


def address_remembered() -> Change:
    kept: dict[int, Any] = {}

    def change(name: str, function: Change, x: torch.Tensor, params: Params) -> Any:
        held.append(x)  # so that no other state gets its address
        return kept.setdefault(x.data_ptr(), function(x, params))

    held: list[torch.Tensor] = []
    return change


def sigmoid_overflows(name: str, function: Change, x: torch.Tensor, params: Params) -> Any:
    n = x.shape[-2]
    z = gated_logits(x, params, PAPER)[..., :n]
    return function(x, params)._replace(pre=z.exp() / (1 + z.exp()))


SLIPS: list[tuple[str, Sequence[str], Change]] = [
    ("execution.every-token-has-its-mappings", ("mappings",), tail_unwritten),
    ("execution.every-token-has-its-mappings", ("mappings",), empty_refused),
    ("execution.mappings-have-no-memory", ("mappings",), weights_folded_once()),
    ("execution.mappings-have-no-memory", ("mappings",), address_remembered()),
    ("execution.mappings-have-no-memory", ("mappings",), unequal),
    ("execution.poison-reaches-the-mappings", ("mappings",), nan_hidden),
    ("coefficients.gates-stay-in-their-range", ("mappings",), sigmoid_overflows),
    ("execution.every-token-is-read-and-mixed", ("pre", "post"), tail_unwritten),
    ("execution.every-token-is-read-and-mixed", ("post",), empty_refused),
    ("execution.pre-and-post-leave-their-inputs-alone", ("pre", "post"), overwritten),
    ("execution.pre-and-post-have-no-memory", ("post",), buffer_reused()),
    ("execution.pre-and-post-have-no-memory", ("pre", "post"), unequal),
    ("execution.poison-passes-pre-and-post", ("pre", "post"), nan_hidden),
    ("gradient.pre-and-post-pull-back-to-every-factor", ("post",), detached),
    ("execution.poison-reaches-h-res", ("project",), nan_hidden),
]


@pytest.mark.slow
@pytest.mark.parametrize(("law", "methods", "change"), SLIPS, ids=[f"{law}-{c.__qualname__}" for law, _, c in SLIPS])
def test_a_slip_in_a_part_alone_is_caught(law: str, methods: Sequence[str], change: Change, tmp_path: Path) -> None:
    found = verdict(law, offering(*methods, change=change), tmp_path)
    assert found.status == "failed", found.worst_ratio
    assert ("raised" in found.reason) == (change is empty_refused), found.reason


@pytest.mark.slow
def test_a_stack_finds_the_parameters_of_its_head_after_those_of_its_layers(tmp_path: Path) -> None:
    law = "depth.stack-expands-and-collapses-once"
    assert verdict(law, offering("stack", dialect=DEEPSEEK_V4), tmp_path).status == "passed"

    def headless(name: str, function: Change, h: Any, params: Sequence[Params], branches: Any) -> Any:
        return function(h, (*params[:-1], params[0]), branches)

    assert verdict(law, offering("stack", dialect=DEEPSEEK_V4, change=headless), tmp_path).status == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("kind", [tuple, list])
def test_mappings_may_come_as_any_sequence(kind: type, tmp_path: Path) -> None:
    part = offering("mappings", change=lambda name, function, *given: kind(function(*given)))
    logits = torch.zeros(1, 2, 2)
    assert torch.equal(project_from_mappings(part, logits), torch.full_like(logits, 0.5))
    for law in ("coefficients.agrees-with-oracle", "precision.every-declared-dtype-keeps-its-own-bound"):
        assert verdict(law, part, tmp_path).status == "passed"


@pytest.mark.parametrize("law", [*PARTS, "mixing.post-is-the-declared-combination"])
def test_a_plain_residual_need_not_read_its_matrix(law: str, tmp_path: Path) -> None:
    class Plain(Implementation):
        dialect = RESIDUAL

        def pre(self, x: torch.Tensor, h_pre: torch.Tensor) -> torch.Tensor:
            return mhc_ref.pre(x, h_pre)

        def post(self, x: torch.Tensor, y: torch.Tensor, h_post: torch.Tensor, h_res: torch.Tensor) -> torch.Tensor:
            return x + h_post.unsqueeze(-1) * y.unsqueeze(-2)

    assert verdict(law, Plain(), tmp_path).status == "passed"


def test_a_target_of_one_dtype_is_projected_through_a_state_of_that_dtype(tmp_path: Path) -> None:
    def strict(name: str, function: Change, x: torch.Tensor, params: Params) -> Any:
        assert x.dtype == torch.bfloat16
        return function(x, params)

    part = offering("mappings", change=strict)
    part.dtypes = ("bfloat16",)
    assert verdict("manifold.last-axis-sums", part, tmp_path, torch.bfloat16).status == "passed"


def test_a_coarse_state_may_be_widened_wherever_it_is_used(tmp_path: Path) -> None:
    """Autograd rounds the gradient of each use to the dtype of the state, and they nearly cancel along the state."""

    def norm_after_matmul(name: str, function: Change, x: torch.Tensor, params: Params) -> Any:
        n = x.shape[-2]
        weight = params.phi if params.norm_weight is None else params.norm_weight.unsqueeze(-1) * params.phi
        rms = (x.float().square().mean((-2, -1)) + PAPER.rms_eps).sqrt().unsqueeze(-1)
        alpha = params.alpha.repeat_interleave(torch.tensor([n, n, n * n]))
        parts = [x.float().flatten(-2) @ one for one in weight.split([n, n, n * n], 1)]
        pre, post, res = (alpha * torch.cat(parts, -1) / rms + params.bias).split([n, n, n * n], -1)
        return Mappings(pre.sigmoid(), 2 * post.sigmoid(), mhc_ref.project(res.unflatten(-1, (n, n)), PAPER))

    part = offering("mappings", change=norm_after_matmul)
    law = "gradient.mappings-pull-back-to-state-and-parameters"
    assert verdict(law, part, tmp_path, torch.bfloat16).status == "passed"


def test_h_res_may_be_wider_than_the_logits_that_are_taken(tmp_path: Path) -> None:
    class Wide(Implementation):
        dtypes, tunable = ("float32",), frozenset({"iterations"})

        def __init__(self, dialect: Dialect = PAPER) -> None:
            self.dialect = dialect

        def project(self, logits: torch.Tensor) -> torch.Tensor:
            assert logits.dtype == torch.float32
            return mhc_ref.project(logits.double(), self.dialect)

        def tuned(self, **fields: Any) -> Implementation:
            return Wide(self.dialect.with_(**fields))

    assert verdict("manifold.iterations-compose", Wide(), tmp_path).status == "passed"


def test_streams_in_a_list_may_widen_the_branch_output_one_by_one(tmp_path: Path) -> None:
    """Autograd then sums the n gradients by the branch output in bfloat16, and what they leave reaches every gate."""

    def one_by_one(name: str, function: Change, *given: Any) -> Any:
        if name != "post":
            return function(*given)
        x, y, h_post, h_res = given
        streams = [stream.float() for stream in x.unbind(-2)]
        rows = [h_post[..., i, None] * y.float() for i in range(len(streams))]
        for i, j in itertools.product(range(len(streams)), repeat=2):
            rows[i] = rows[i] + h_res[..., i, j, None] * streams[j]
        return torch.stack(rows, -2).to(x.dtype)

    part = offering("mappings", "pre", "post", change=one_by_one)
    part.streams = (8,)
    law = all_laws()["gradient.block-pulls-back-to-state-and-parameters"]
    subject = Subject("partial", part, torch.bfloat16, torch.device("cpu"))
    profile = Profile(examples=12, derandomise=True, shrink=False)
    assert examine(law, subject, profile, directory=tmp_path, randomness=0).status == "passed"


def test_what_mixes_in_the_dtype_of_the_state_may_round_every_partial_sum() -> None:
    """Eight terms just below half a unit of the sum, added one by one, all get lost."""

    def looped(name: str, function: Change, *given: Any) -> Any:
        x, y, h_post, h_res = given
        operator, total = h_res.to(x.dtype), h_post.to(x.dtype).unsqueeze(-1) * y.unsqueeze(-2)
        for j in range(x.shape[-2]):
            total = total + operator[..., j, None] * x[..., j, None, :]
        return total

    part = offering("post", change=looped)
    x = torch.ones(1, 8, 1).bfloat16()
    case = Case(x=x, y=x[:, 0], h_post=torch.ones(1, 8), h_res=torch.full((1, 8, 8), 255 * 2.0**-16))
    law = all_laws()["mixing.post-is-the-declared-combination"]
    subject = Subject("partial", part, torch.bfloat16, torch.device("cpu"))
    with pytest.raises(LawBroken):
        try_case(law, subject, case)
    part.mixing = "state"
    assert 0.5 < try_case(law, subject, case).worst <= 1


def test_a_gradient_beyond_the_compute_dtype_on_its_way_to_a_closed_gate_is_not_claimed() -> None:
    """A line starved by e^-48: the 1/s^2 of scaling vectors is infinite in float32, and 0 times it is NaN."""
    law = all_laws()["gradient.residual-path-pulls-back-by-the-transpose"]
    n = 5
    residual = torch.zeros(n, n)
    residual[-1] = -48
    params = Params(
        torch.ones(2 * n, 2 * n + n * n), torch.cat([torch.zeros(2 * n), residual.flatten()]), torch.zeros(3), None
    )
    x = torch.arange(1.0, 2 * n + 1).reshape(1, n, 2).bfloat16()
    case = Case(x=x, params=params, cotangent=torch.ones_like(x) * torch.tensor([1.0, 0.5]).bfloat16())
    target = controls.build("scaling-vectors", PAPER)
    subject = Subject("control:scaling-vectors", target, torch.bfloat16, torch.device("cpu"))
    assert try_case(law, subject, case).worst == 0
    gentle = case.with_(params=params._replace(bias=torch.zeros_like(params.bias)))
    assert try_case(law, subject, gentle).claims > 0


ARRANGED = (
    "execution.batch-shape-is-free",
    "execution.mappings-take-any-batch-shape",
    "execution.projection-takes-any-batch-shape",
    "execution.poison-is-neither-hidden-nor-spread",
    "execution.poison-reaches-the-mappings",
    "execution.poison-reaches-h-res",
    "execution.poison-passes-pre-and-post",
    "execution.different-logits-differ",
    "precision.norm-and-projection-keep-the-compute-precision",
    "device.memory-formats-do-not-matter",
)


@pytest.mark.one_in(3)
@pytest.mark.slow
@pytest.mark.parametrize("most", [1, 5])
@pytest.mark.parametrize("law", ARRANGED)
def test_no_call_has_more_tokens_than_are_declared(law: str, most: int, tmp_path: Path) -> None:
    def counted(name: str, function: Change, first: torch.Tensor, *given: Any) -> Any:
        tokens = first.shape[:-2].numel()
        if tokens > most:
            raise ValueError(f"{tokens} tokens; the buffer is for {most}")
        return function(first, *given)

    part = offering("project", "mappings", "pre", "post", change=counted)
    part.max_tokens, part.streams = most, (3,)
    assert verdict(law, part, tmp_path).status == "passed"


class Buffered(Reference):
    """The reference, with a buffer for a few tokens that every method refuses to overrun."""

    max_tokens = 3

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        axes = {"project": 2, "mappings": 2, "pre": 2, "post": 2, "block": 2, "layers": 2, "collapse": 2}
        axes |= {"expand": 1, "stack": 1}
        if name not in axes:
            return found

        def refusing(first: torch.Tensor, *given: Any) -> Any:
            tokens = first.shape[: -axes[name]].numel()
            if tokens > self.max_tokens:
                raise ValueError(f"{tokens} tokens; the buffer is for {self.max_tokens}")
            return found(first, *given)

        return refusing


class ByEights(Reference):
    """The reference, as a kernel that reads eight channels at once."""

    channel_multiple = 8

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in ("mappings", "pre", "post", "block", "layers", "collapse", "expand", "stack"):
            return found

        def refusing(first: torch.Tensor, *given: Any) -> Any:
            if first.shape[-1] % 8:
                raise ValueError(f"{first.shape[-1]} channels; expected a multiple of 8")
            return found(first, *given)

        return refusing


class BufferedByEights(Buffered, ByEights):
    """Both: laws draw tokens and widths each by themselves, but for sweeps."""


def holds_where_it_applies(law: str, target: Reference, directory: Path) -> None:
    """A law passes on a target that refuses what it has not declared, where it applies to one that takes as much."""
    profile = Profile(examples=5, derandomise=True, shrink=False)
    found = examine(
        all_laws()[law], Subject("refusing", target, torch.float32, torch.device("cpu")), profile, directory=directory
    )
    plain = Reference(PAPER)
    plain.max_tokens = target.max_tokens
    schedule = all_laws()[law].schedule
    said = all_laws()[law].inapplicable(plain, torch.float32, torch.device("cpu")) or schedule.thorough or schedule.once
    assert found.status == ("not-applicable" if said else "passed"), found.message


@pytest.mark.one_in(4)
@pytest.mark.slow
@pytest.mark.parametrize("law", all_laws())
def test_a_buffer_for_three_tokens_is_never_overrun(law: str, tmp_path: Path) -> None:
    target = Buffered if law in SWEEPS else BufferedByEights
    holds_where_it_applies(law, target(PAPER, "buffered"), tmp_path)


SWEEPS = [law.id for law in family_laws("sizes")]
CHEAPEST = [
    min(family_laws(family), key=lambda law: (law.schedule.cost, "block" not in law.needs)).id
    for family in FAMILIES
    if family != "sizes"
]


def of_many_tokens(law: str) -> bool:
    """Whether it needs more tokens than the buffer has, so that widths are not tried together with that."""
    few, plain = Reference(PAPER), Reference(PAPER)
    few.max_tokens = Buffered.max_tokens
    unfit, fit = (all_laws()[law].inapplicable(one, torch.float32, torch.device("cpu")) for one in (few, plain))
    return bool(unfit) and not fit


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "law",
    [
        *CHEAPEST,
        *(
            pytest.param(law, marks=pytest.mark.slow)
            for law in all_laws()
            if law not in CHEAPEST and (law in SWEEPS or of_many_tokens(law))
        ),
    ],
)
def test_every_width_is_a_multiple_of_what_is_declared(law: str, tmp_path: Path) -> None:
    eights = ByEights(PAPER, "by eights")
    eights.streams = (1, 2, 3)
    holds_where_it_applies(law, eights, tmp_path)


@pytest.mark.slow
def test_what_takes_only_some_widths_is_identified() -> None:
    found = identify(ByEights(DEEPSEEK_V4, "by eights"))
    assert found.headline() == "like DEEPSEEK_V4"
    assert found.explained


@pytest.mark.slow
@pytest.mark.parametrize("law", ["execution.poison-reaches-h-res", "execution.poison-reaches-the-mappings"])
@pytest.mark.parametrize("dialect", [PAPER, DEEPSEEK_V4, MHC_LITE])
def test_h_res_of_one_stream_need_not_read_its_logit(law: str, dialect: Dialect, tmp_path: Path) -> None:
    def shortcut(name: str, function: Change, given: torch.Tensor, *params: Params) -> Any:
        found = function(given, *params)
        if (given.shape[-1] if name == "project" else given.shape[-2]) > 1:
            return found
        plain = function(torch.zeros_like(given), *params)
        return plain if name == "project" else found._replace(res=plain.res)

    part = offering("project", "mappings", dialect=dialect, change=shortcut)
    part.streams = (1, 2)
    assert verdict(law, part, tmp_path).status == "passed"
    hiding = offering("project", "mappings", dialect=dialect, change=nan_hidden)
    hiding.streams = (1, 2)
    assert verdict(law, hiding, tmp_path).status == "failed"


def test_what_is_recomputed_may_sum_in_another_order_and_no_more() -> None:
    """Identical streams pass h_res unchanged, so that its gradient is nothing but the roundings of what cancels."""

    def in_any_order(name: str, function: Change, x: torch.Tensor, *given: Any) -> Any:
        if name != "mappings":
            return function(x, *given)
        n, params = x.shape[-2], given[0]
        pre, post, res = gated_logits(x, params, PAPER).split([n, n, n * n], -1)
        order = torch.randperm(n, generator=generator)
        matrix = mhc_ref.project(res.unflatten(-1, (n, n))[..., order, :][..., order], PAPER)
        back = order.argsort()
        return Mappings(pre.sigmoid(), 2 * post.sigmoid(), matrix[..., back, :][..., back])

    def drifting(name: str, function: Change, x: torch.Tensor, *given: Any) -> Any:
        if name == "mappings":
            calls.append(name)
            given = (given[0]._replace(bias=given[0].bias * (1 + 1e-9 * len(calls))),)
        return function(x, *given)

    generator = torch.Generator().manual_seed(0)
    phi, bias = (torch.randn(shape, generator=generator).double() for shape in ((15, 35), (35,)))
    params = Params(phi, bias, torch.ones(3).double(), None)
    x = torch.randn(2, 1, 3, generator=generator).double().expand(2, 5, 3).contiguous()
    law = all_laws()["execution.recomputation-does-not-matter"]
    calls: list[str] = []
    for change in (in_any_order, drifting):
        part = offering("mappings", "pre", "post", change=change)
        subject = Subject("partial", part, torch.float64, torch.device("cpu"))
        if change is in_any_order:
            assert try_case(law, subject, Case(x=x, params=params, branch=BranchSpec("zero"))).worst <= 1
        else:
            apart = x * torch.arange(1.0, 6.0).double().unsqueeze(-1)
            with pytest.raises(LawBroken):
                try_case(law, subject, Case(x=apart, params=params, branch=BranchSpec("zero")))


def test_a_gradient_that_is_not_a_number_has_not_changed(tmp_path: Path) -> None:
    """NaN is no equal of itself; what is wrong with it is what it is."""

    def spoiled(name: str, function: Change, z: torch.Tensor, *given: Any) -> Any:
        matrix = function(z, *given)
        if matrix.requires_grad:
            matrix.register_hook(lambda bar: bar * torch.nan)
        return matrix

    found = verdict(
        "gradient.projection-pulls-back-however-it-is-called", offering("project", change=spoiled), tmp_path
    )
    assert found.status == "failed"
    assert "found  the gradient of project by logits a second time" in found.message
    assert "got    nan" in found.message


def test_an_output_without_a_graph_is_told_how_to_say_so(tmp_path: Path) -> None:
    law = "gradient.projection-pulls-back-the-unrolled-iteration"
    cut = offering("project", change=lambda name, function, z: function(z).detach())
    halved = offering("project", change=lambda name, function, z: function(z) / 2 + function(z).detach() / 2)
    for implementation, told in ((cut, True), (halved, False)):
        found = verdict(law, implementation, tmp_path)
        assert found.status == "failed"
        assert ("differentiable = False" in found.message) == told


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([1.0, torch.nan], [1.0, torch.nan], True),
        ([torch.inf], [torch.finfo(torch.float32).max], False),
        ([torch.nan], [0.0], False),
        ([1.0], [1.0, 1.0], False),
        ([0.0], [-0.0], True),
    ],
)
def test_numbers_are_the_same_whatever_the_sign_of_a_zero(one: list[float], other: list[float], same: bool) -> None:
    assert same_numbers(torch.tensor(one), torch.tensor(other)) == same


TIES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "split": lambda z: z.amax(-2, keepdim=True),
    "one of them": lambda z: z.flip(-2).max(-2, keepdim=True).values,
    "folded": lambda z: functools.reduce(torch.maximum, z.split(1, -2)),
    "nobody": lambda z: z.amax(-2, keepdim=True).detach(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("charged", TIES)
def test_whichever_of_equal_logits_is_charged_with_the_shift_is_admitted(charged: str, dtype: torch.dtype) -> None:
    """The maximum has no derivative where two logits share it, and an eps in a denominator makes it visible."""
    dialect = PAPER.with_(denominator_eps=0.25, iterations=2)

    def project(name: str, function: Change, z: torch.Tensor) -> torch.Tensor:
        m = (z - TIES[charged](z)).exp()
        for dim in (-2, -1) * dialect.iterations:
            m = m / (m.sum(dim, keepdim=True) + dialect.denominator_eps)
        return m

    law = all_laws()["gradient.projection-pulls-back-the-unrolled-iteration"]
    subject = Subject("partial", offering("project", dialect=dialect, change=project), dtype, torch.device("cpu"))
    tied = torch.tensor([[[0.0, 1, 0], [0, 1, -1], [-2, 0, 0]]], dtype=dtype)
    case = Case(logits=tied, cotangent=torch.eye(3, dtype=dtype).unsqueeze(0))
    apart = case.with_(logits=tied + torch.arange(9, dtype=dtype).reshape(3, 3) / 8)
    if charged == "nobody":
        with pytest.raises(LawBroken):
            try_case(law, subject, apart)
    else:
        assert try_case(law, subject, case).worst <= 1
        assert try_case(law, subject, apart).worst <= 1


def test_nothing_is_claimed_of_a_gradient_at_a_clamp() -> None:
    dialect = PAPER.with_(denominator="clamp", denominator_eps=0.5, iterations=1, last_axis="column")
    law = all_laws()["gradient.projection-pulls-back-the-unrolled-iteration"]
    # The columns of the shares of rows sum to 1/2 and to 3/2.
    logits = torch.tensor([[[0.25, 0.75], [0.25, 0.75]]], dtype=torch.float64).log()
    case = Case(logits=logits, cotangent=torch.eye(2, dtype=torch.float64).unsqueeze(0))

    def project(name: str, function: Change, z: torch.Tensor, shift: float = 0.0) -> torch.Tensor:
        m = z.softmax(-1)
        line = m.sum(-2, keepdim=True)
        return m / torch.where(line > 0.5 + shift, line, 0.5)

    for shift in (1e-9, -1e-9):
        part = offering("project", dialect=dialect, change=partial(project, shift=shift))
        subject = Subject("partial", part, torch.float64, torch.device("cpu"))
        assert try_case(law, subject, case).claims == 0


def test_an_output_of_another_shape_than_its_fellow_is_a_broken_contract() -> None:
    trial = Subject("ref", Reference(PAPER), torch.float64, torch.device("cpu")).trial()
    with pytest.raises(ContractBroken, match=r"h_res a second time has shape \(2, 2\); expected \(3, 3\)"):
        trial.within("h_res a second time", torch.zeros(2, 2), torch.zeros(3, 3), torch.ones(3, 3))


def test_two_outputs_of_one_wrong_shape_are_a_broken_contract_and_no_fault_of_the_harness() -> None:
    trial = Subject("ref", Reference(PAPER), torch.float64, torch.device("cpu")).trial()
    with pytest.raises(ContractBroken, match=r"a block has shape \(2, 3, 4\); expected \(6, 4\)"):
        trial.near("a block", torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), torch.ones(6, 4))
