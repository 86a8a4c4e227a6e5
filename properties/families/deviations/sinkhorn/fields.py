"""Sinkhorn by other fields: another order, eps or number of iterations than is declared."""

from __future__ import annotations

from mhc_ref import Dialect
from mhc_ref.dialect import Axis
from properties.core.slips import MUTATION, Slips, both, by_rms
from properties.families.steps.sinkhorn import iterates, projects

SLIPS = Slips()
eps_dialect = SLIPS.dialect("eps")
iterations_dialect = SLIPS.dialect("iterations")
missing_dialect = SLIPS.dialect("missing-term")
order_dialect = SLIPS.dialect("order")
scaling_dialect = SLIPS.dialect("scaling")


def _other(axis: Axis) -> Axis:
    return "row" if axis == "column" else "column"


def _swapped(dialect: Dialect) -> Dialect:
    return dialect.with_(rms_eps=dialect.entry_eps, entry_eps=dialect.rms_eps)


eps_dialect(
    "entry-eps-missing",
    "No eps is added to the entries.",
    "torchtitan 19ef0f5; Megatron before #4624; PaddleFleet #1318 (bug 12)",
    lambda d: d.with_(entry_eps=0.0),
    projects,
)
eps_dialect(
    "entry-eps-added",
    "DeepSeek's eps of 1e-6 is added to the entries of a dialect that has none.",
    "Megatron #5106: which eps goes where (bug 11)",
    lambda d: d.with_(entry_eps=d.entry_eps or 1e-6),
    projects,
)
eps_dialect(
    "entry-eps-in-denominators",
    "The eps of the entries is added to the denominators instead.",
    "Megatron #5106 (bug 11); torchtitan 19ef0f5",
    lambda d: d.with_(entry_eps=0.0, denominator_eps=d.denominator_eps + d.entry_eps),
    iterates,
)
eps_dialect(
    "denominator-eps-missing",
    "No eps is added to the denominators, or nothing clamps them.",
    "Megatron #5106 (bug 11); MaxText before #4337 (bug 13)",
    lambda d: d.with_(denominator_eps=0.0),
    iterates,
)
eps_dialect(
    "denominator-eps-added",
    "An eps of 1e-6 is added to the denominators of a dialect that has none.",
    "torchtitan 19ef0f5, mHC.cu 3595c86",
    lambda d: d.with_(denominator_eps=d.denominator_eps or 1e-6),
    iterates,
)
eps_dialect(
    "denominator-eps-coarse",
    "The denominators have an eps of 0.02, which cures the symptom and loses 2 % of the mass a block.",
    "TileOPs #172, still the forward default (bug 34)",
    lambda d: d.with_(denominator_eps=0.02, denominator="add"),
    iterates,
)
eps_dialect(
    "sinkhorn-eps-1e-5",
    "Every eps of the projection is 1e-5.",
    "MaxText #4337, 1e-5 in the text and 1e-6 in the code (bug 13)",
    lambda d: d.with_(
        entry_eps=1e-5 if d.entry_eps else 0.0,
        denominator_eps=1e-5 if d.denominator_eps else 0.0,
    ),
    iterates,
)
eps_dialect(
    "denominator-clamped",
    "The denominator is max(s, eps) where s + eps is declared.",
    "Megatron #5106, clamp(min=eps) (bug 11)",
    lambda d: d.with_(denominator="clamp"),
    lambda d: iterates(d) and 0 < d.denominator_eps < 1,
)
eps_dialect(
    "denominator-added",
    "The denominator is s + eps where max(s, eps) is declared.",
    "Megatron #5106 (bug 11)",
    lambda d: d.with_(denominator="add"),
    lambda d: iterates(d) and d.denominator_eps > 0,
)
eps_dialect(
    "eps-arguments-swapped",
    "The eps of the norm and that of the entries are passed in each other's place.",
    "vLLM's CPU operator takes (hc_eps, norm_eps), its wrapper the opposite (bug 59)",
    _swapped,
    projects,
)
eps_dialect(
    "sinkhorn-eps-for-norm",
    "The norm uses the eps of the entries.",
    f"{MUTATION}: one eps argument for both, as in kernels with a single `eps`",
    lambda d: d.with_(rms_eps=d.entry_eps),
    both(projects, by_rms),
)
eps_dialect(
    "norm-eps-for-sinkhorn",
    "The projection and h_pre use the eps of the norm.",
    f"{MUTATION}: one eps argument for both, as in kernels with a single `eps`",
    lambda d: d.with_(entry_eps=d.rms_eps, denominator_eps=d.rms_eps, pre_eps=d.rms_eps),
    lambda d: projects(d) and d.rms_eps < 1,
)
iterations_dialect(
    "one-iteration-fewer",
    "Sinkhorn runs one iteration fewer than declared.",
    f"{MUTATION}: off by one: `range(iters - 1)` after a start that is no half-step",
    lambda d: d.with_(iterations=d.iterations - 1),
    iterates,
)
iterations_dialect(
    "one-iteration-more",
    "Sinkhorn runs one iteration more than declared.",
    f"{MUTATION}: off by one: `range(iters)` after a first iteration outside of the loop",
    lambda d: d.with_(iterations=d.iterations + 1),
    projects,
)
iterations_dialect(
    "one-iteration",
    "Sinkhorn stops after one iteration.",
    "passes vLLM's test_mhc_pre_tilelang at its published tolerance",
    lambda d: d.with_(iterations=1),
    iterates,
)
iterations_dialect(
    "three-iterations",
    "Sinkhorn stops after three iterations.",
    "passes vLLM's test_mhc_pre_tilelang at its published tolerance",
    lambda d: d.with_(iterations=3),
    lambda d: iterates(d) and d.iterations > 3,
)
iterations_dialect(
    "ten-iterations",
    "Sinkhorn runs the 10 iterations of another library's default.",
    "TileKernels default repeat=10; tokenbender",
    lambda d: d.with_(iterations=10),
    iterates,
)
iterations_dialect(
    "twice-the-iterations",
    "Sinkhorn runs twice as many iterations, half-steps having been counted as iterations.",
    MUTATION,
    lambda d: d.with_(iterations=2 * d.iterations),
    projects,
)
iterations_dialect(
    "limit",
    "Sinkhorn runs to its limit, 200 iterations, instead of the declared number.",
    "tilelang deepseek_mhc example, 100 iterations (bug 23)",
    lambda d: d.with_(iterations=200),
    lambda d: iterates(d) and d.iterations < 100,
)
scaling_dialect(
    "temperature-ignored",
    "The residual logits are projected without being divided by the temperature.",
    f"{MUTATION}: an argument that reaches one of two code paths",
    lambda d: d.with_(temperature=1.0),
    projects,
)
scaling_dialect(
    "temperature-multiplied",
    "The residual logits are multiplied by the temperature.",
    f"{MUTATION}: tau and 1 / tau",
    lambda d: d.with_(temperature=1 / d.temperature),
    projects,
)
missing_dialect(
    "iterations-missing",
    "The started matrix is emitted without any iteration: a softmax, or exp.",
    "Subhadip Mitra's reproduction, its ablation with 0 Sinkhorn iterations",
    lambda d: d.with_(iterations=0),
    iterates,
)
order_dialect(
    "axes-swapped",
    "Rows and columns are normalised in each other's place.",
    "llm-internal-medicine #39; Megatron #3828 writes T_c(T_r(M)) where the paper has T_r(T_c(M))",
    lambda d: d.with_(last_axis=d.first_axis, start_axis=_other(d.start_axis)),
    iterates,
)
order_dialect(
    "last-axis-swapped",
    "The last division is by the other axis, after the declared start.",
    "MaxText before #4337: 20 passes in the other order",
    lambda d: d.with_(last_axis=d.first_axis),
    lambda d: iterates(d) and d.start == "softmax",
)
order_dialect(
    "softmax-other-axis",
    "Sinkhorn starts with a softmax over the last axis and all its iterations follow.",
    "MaxText #4337 (bug 13)",
    lambda d: d.with_(start="softmax", start_axis=d.last_axis),
    iterates,
)
order_dialect(
    "exp-start",
    "Sinkhorn starts with exp where softmax is declared, so that the entry eps weighs differently.",
    "nvfp4-megamoe-kernel notes (bug 14)",
    lambda d: d.with_(start="exp"),
    lambda d: iterates(d) and d.start == "softmax" and d.entry_eps > 0,
)
