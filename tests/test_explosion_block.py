"""Blocks with branches, ranges of dtypes, foreign implementations, pictures."""

import itertools
import math
import sys
from fractions import Fraction
from typing import Any

import pytest
import torch

from mhc_ref import DEEPSEEK_V4, DEEPSEEK_V4_1, HYPER_CONNECTIONS, LIGER, MHC_LITE, PAPER, QWEN4_EXP, RESIDUAL
from mhc_ref.exact import Exact
from properties.explosion import PictureError, draw, find_minimal, load, replay, save
from properties.explosion.composite import context
from properties.explosion.configurations import Block
from properties.explosion.options import BRANCHES, NORMS
from properties.explosion.proofs.branches import BRANCHES as PROVED
from properties.explosion.proofs.envelopes import envelope, steepest
from properties.explosion.questions.families import ask
from properties.explosion.searches.blocks import activations, params, value

ACTIVE = [one for one in BRANCHES if one != "attention"]


def _asked(options: dict[str, Any]) -> dict[str, Any]:
    return {"gain": "activation", **options}


@pytest.mark.parametrize(("branch", "norm"), list(itertools.product(BRANCHES, NORMS)))
def test_the_recurrence_is_what_the_oracle_computes(branch, norm):
    """One number a sub-layer, against the block of mpmath on all n x C numbers and the reference in float64."""
    dialect = PAPER.with_(rms_eps=1e-6, iterations=2)
    asked = ask(f"block:{branch}:{norm}", 2, gain="activation", dialect=dialect, max_width=3)
    block = Block(1, -2, Fraction(3, 4), depth=3, streams=2, width=3)
    oracle = Exact(dialect, digits=30)
    parameters = params(block, dialect)
    x = [[1, 0, 0], [1, 0, 0]]

    def normalised(u):
        mean = oracle.mp.fsum(number * number for number in u) / len(u)
        return [number / oracle.mp.sqrt(mean + dialect.rms_eps) for number in u]

    def answer(u):
        v = normalised(u) if norm in ("pre", "sandwich") else u
        shaped = {
            "relu": max(v[0], 0),
            "gated": v[0] * v[0] / (1 + oracle.mp.exp(-v[0])),
            "gelu": v[0] * (1 + oracle.mp.erf(v[0] / oracle.mp.sqrt(2))) / 2,
            "tanh": oracle.mp.tanh(v[0]),
            "sigmoid": 1 / (1 + oracle.mp.exp(-v[0])),
        }.get(branch, v[0])
        y = [0.75 * shaped, 0, 0]
        return normalised(y) if norm in ("output", "sandwich") else y

    lists = type(parameters)(parameters.phi.tolist(), parameters.bias.tolist(), parameters.alpha.tolist())  # pyright: ignore[reportArgumentType]
    for _ in range(3):
        x = oracle.block(x, lists, answer)
        x = [normalised(stream) for stream in x] if norm == "post" else x
    found = value(asked, block)
    assert abs(found - max(abs(number) for stream in x for number in stream)) < 1e-25
    *_, last = activations(asked, block, "float64")
    assert last.abs().max().item() == pytest.approx(float(found), rel=1e-12)


@pytest.mark.parametrize(("branch", "norm"), list(itertools.product(ACTIVE, NORMS)))
def test_no_weights_within_the_bound_pass_the_envelope(branch, norm):
    """Random weights, gates and inputs, all channels in use."""
    asked = ask(f"block:{branch}:{norm}", 2, gain="activation", branch_bound="0.5", max_width=3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        n, width, x = 2, 3, 2 * torch.rand(2, 3, dtype=torch.float64, generator=generator) - 1
        for depth in range(1, 5):
            w1, w2, w3 = (torch.randn(width, width, dtype=torch.float64, generator=generator) for _ in range(3))
            w1, w2, w3 = (w / w.abs().sum(1).max() for w in (w1, w2, w3))
            gates = torch.rand(2, n, dtype=torch.float64, generator=generator)
            mix = torch.rand(n, n, dtype=torch.float64, generator=generator)
            u = gates[0] @ x
            v = u / u.square().mean().sqrt() if norm in ("pre", "sandwich") else u
            inner = torch.nn.functional.silu(w2 @ v) * (w1 @ v) if branch == "gated" else PROVED[branch].acts(w1 @ v)
            y = 0.5 * w3 @ inner
            y = y / y.square().mean().sqrt().clamp_min(1e-300) if norm in ("output", "sandwich") else y
            x = mix / mix.sum(1, keepdim=True) @ x + 2 * gates[1].unsqueeze(1) * y
            x = x / x.square().mean(-1, keepdim=True).sqrt() if norm == "post" else x
            assert x.abs().max().item() <= float(envelope(asked, depth, n, width)) * (1 + 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "options", "size"),
    [
        ("block:linear", {"threshold": 100, "branch_bound": "0.1"}, (8, 4, 1)),  # 1.8^7 = 61.2, 1.8^8 = 110.2
        ("block:relu", {"threshold": 100, "branch_bound": "0.1", "max_streams": 1}, (26, 1, 1)),  # 1.2^26 = 114.5
        ("block:attention", {"threshold": 100, "branch_bound": "0.1", "dialect": DEEPSEEK_V4}, (8, 4, 1)),
        ("block:gated", {"threshold": "1e6", "max_streams": 1}, (5, 1, 1)),
        ("block:linear:pre", {"threshold": 100}, (50, 1, 1)),  # 1 + 2 L > 100
        ("block:linear:pre", {"threshold": 100, "max_width": 4}, (25, 1, 4)),  # 1 + 4 L > 100
        ("block:relu:post", {"threshold": "1.9", "max_width": 4}, (1, 1, 4)),
        ("block:linear", {"threshold": 8, "dialect": RESIDUAL, "max_streams": 1}, (2, 1, 1)),
        ("block:linear", {"threshold": 9, "dialect": MHC_LITE, "max_streams": 1}, (3, 1, 1)),  # 9 = 3^2 is not reached
        ("block:linear", {"threshold": 100, "gain": "gradient", "branch_bound": "0.1"}, (8, 4, 1)),
        ("block:linear:pre", {"threshold": "1e8", "gain": "gradient", "branch_bound": "0.1"}, (1, 1, 1)),
        ("block:gelu", {"threshold": 50}, (2, 4, 1)),
        ("block:tanh", {"threshold": 50}, (25, 1, 1)),  # 1 + 2 L > 50
        ("block:sigmoid:pre", {"threshold": 9, "max_width": 4}, (5, 1, 2)),  # 1 + 2 L sigma(sqrt(C))
        ("block:relu:output", {"threshold": 50, "max_width": 4}, (13, 1, 4)),  # 1 + 2 L sqrt(C)
        ("block:gated:sandwich", {"threshold": 50, "max_width": 4}, (13, 1, 4)),
        ("block:tanh", {"threshold": 100, "gain": "gradient", "branch_bound": "0.1"}, (8, 4, 1)),
        ("block:gated", {"threshold": 100, "gain": "gradient", "max_streams": 1}, (3, 1, 1)),
        ("block:attention", {"threshold": 100, "gain": "gradient", "branch_bound": "0.1"}, (8, 4, 1)),
        ("block:tanh:sandwich", {"threshold": "1e12", "gain": "gradient", "dialect": DEEPSEEK_V4}, (2, 1, 1)),
    ],
)
def test_what_contains_growth_and_what_does_not(family, options, size):
    found = find_minimal(family, **_asked(options))
    assert (found.depth, found.streams, found.width, found.minimality) == (*size, "proved")
    assert found.family == (family if family.count(":") == 2 else f"{family}:none")
    assert float(str(found.exact_value)) >= float(options["threshold"])
    assert found.value == pytest.approx(float(str(found.exact_value)), rel=1e-9)


@pytest.mark.parametrize(
    ("family", "options", "argument"),
    [
        ("block:relu:post", {"threshold": 2, "max_width": 4}, "sqrt(C): 2"),
        ("block:attention:pre", {"threshold": 300}, "128 sub-layers stay below 257"),
        ("block:linear:pre", {"threshold": 1, "gain": "nonfinite", "dtype": "float16"}, "roundings"),
        ("block:gated:post", {"threshold": 1, "gain": "nonfinite", "dtype": "float16"}, "roundings"),
    ],
)
def test_a_normalisation_contains_activations(family, options, argument):
    found = find_minimal(family, **_asked(options))
    assert (found.found, found.impossible, found.minimality) == (False, True, "proved")
    assert argument in found.proof


@pytest.mark.parametrize("branch", ACTIVE)
def test_slopes_of_branches_are_the_largest_within_reach(branch):
    """Against automatic differentiation: no slope of one channel passes the bound, and it is attained."""
    one, mp = PROVED[branch], context()
    for reach in (0.25, 1.0, 2.0, 6.0):
        z = torch.linspace(-reach, reach, 4001, dtype=torch.float64, requires_grad=True)
        (slopes,) = torch.autograd.grad(one.acts(z).sum(), z)
        largest, bound = slopes.abs().max().item(), float(one.slope(mp.mpf(reach), mp))
        assert largest <= bound * (1 + 1e-12)
        assert largest >= bound * (0.95 if branch == "gated" else 1 - 1e-5)
        assert one.acts(z).abs().max().item() == pytest.approx(float(one.answers(mp.mpf(reach), mp)), rel=1e-12)
        at = z[2000:][slopes[2000:] != 0]
        exact = [float(one.derivative(mp.mpf(number), mp)) for number in at[1::400].tolist()]
        assert slopes[2000:][slopes[2000:] != 0][1::400].tolist() == pytest.approx(exact, rel=1e-12)


def test_typical_growth_stands_beside_the_worst_case():
    found = find_minimal("block:linear", 100, gain="activation")
    (line,) = (one for one in found.to_text().splitlines() if one.startswith("typical at initialisation: "))
    assert 1 < float(line.split()[3]) < 100


@pytest.mark.parametrize(
    ("family", "bound", "dtype", "size"),
    [
        ("residual", {}, "bfloat16", (128, 1)),
        ("residual", {}, "float16", (16, 1)),
        ("residual", {"branch_bound": "0.1"}, "float16", (117, 1)),
        ("residual", {"branch_bound": "3"}, "float32", (64, 1)),
        ("hc", {"entry_bound": "1.25"}, "float16", (7, 4)),
        ("hc", {"identity_bound": "1", "max_streams": 2}, "float16", (11, 2)),  # 3^10 = 59049, 3^11 = 177147
        ("hc", {"entry_bound": "4"}, "bfloat16", (32, 4)),
    ],
)
def test_overflow_is_found_where_the_dtype_ends(family, bound, dtype, size):
    found = find_minimal(family, 1, gain="nonfinite", dtype=dtype, **bound)
    assert (found.depth, found.streams, found.minimality, found.value) == (*size, "proved", math.inf)
    assert found.to_json()["value"] is None


def test_rounding_can_swallow_a_branch():
    """1 + 0.001 is 1 in bfloat16: the chain never grows, at any depth."""
    found = find_minimal("residual", 1, gain="nonfinite", dtype="bfloat16", branch_bound="0.001")
    assert found.impossible
    assert "rounding swallows" in found.proof


@pytest.mark.parametrize(("family", "depth"), [("block:linear", 6), ("block:gated", 3)])
def test_blocks_overflow_too(family, depth):
    found = find_minimal(family, 1, gain="nonfinite", dtype="float16")
    assert (found.depth, found.minimality, found.value) == (depth, "searched", math.inf)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("block:gated", {"threshold": 100, "gain": "activation"}),
        ("block:linear", {"threshold": 1, "gain": "nonfinite", "dtype": "float16"}),
        ("hc", {"threshold": 1, "gain": "nonfinite", "dtype": "float16", "entry_bound": 2}),
    ],
)
def test_blocks_and_overflows_are_saved_and_fail_again(tmp_path, family, options):
    path = tmp_path / "x.safetensors"
    found = save(find_minimal(family, **options), path)
    assert load(path) == found
    assert replay(path).verdict == "FAILED"
    assert "activation max" in found.to_text()


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("block:swish", {}, "the branch of block is 'swish'"),
        ("block:relu:batch", {}, "the norm of block is 'batch'"),
        ("block", {"gain": "forward"}, "expected activation, gradient or nonfinite"),
        ("block", {"direction": "vanish"}, "expected 'explode' for block"),
        ("block:relu:post", {"gain": "gradient", "dialect": DEEPSEEK_V4.with_(rms_eps=0.0)}, "rms_eps 0"),
        ("block:relu", {"gain": "gradient", "max_tokens": 2}, "max_tokens is 2, and has no effect"),
        ("block:attention", {"max_tokens": 2}, "what attention answers is an average of tokens"),
        ("block:attention", {"gain": "gradient", "score_bound": 2}, "score_bound is 2, and has no effect"),
        ("hc", {"entry_bound": 2, "gain": "forward", "max_tokens": 2}, "hc has no tokens"),
        ("block:linear:pre", {"gain": "gradient", "dialect": DEEPSEEK_V4.with_(rms_eps=0.0)}, "rms_eps 0"),
        ("block", {"dialect": LIGER}, "applied rows are normalised"),
        ("block", {"dialect": HYPER_CONNECTIONS}, "applied rows are normalised"),
        ("block", {"iterations": 0}, "applied rows are normalised"),
        ("residual", {"gain": "nonfinite"}, "expected threshold 1"),
        ("mhc", {"gain": "nonfinite", "threshold": 1}, "overflow is not searched in mhc"),
        ("target:", {"gain": "forward"}, "expected target:TARGET"),
        ("target:ref:HYPER_CONNECTIONS", {"gain": "forward"}, "expected entry_bound"),
        ("block", {"dialect": QWEN4_EXP}, "every channel by a gate of low rank, and no bound is known"),
        ("block", {"dialect": DEEPSEEK_V4_1}, "read_from is 'previous': the first sub-layer reads otherwise"),
        ("target:ref:QWEN4_EXP", {"gain": "forward"}, "a mixing without logits: the identity"),
        ("target:ref:IHC", {"gain": "forward"}, "a mixing without logits: the identity"),
    ],
)
def test_questions_about_blocks_and_targets_are_refused_by_name(family, options, message):
    with pytest.raises(ValueError, match=message):
        find_minimal(family, **_asked({"threshold": 2, **options}))


def test_streams_that_keep_to_themselves_neither_grow_nor_vanish():
    found = find_minimal("mhc", 2, dialect=QWEN4_EXP)
    assert found.impossible
    assert "all gains of every product are 1" in found.to_text()


IMPLEMENTATION = """
import torch
from properties.core.implementation import Implementation

class Broken(Implementation):
    streams = (2, 3)
    def project(self, logits):
        return logits.softmax(-1) * 1.5
"""


@pytest.mark.slow
def test_a_foreign_implementation_is_searched(tmp_path):
    """A scale of 1.5 on the residual path: 1.5^L, where the mathematics would allow 1."""
    (tmp_path / "broken.py").write_text(IMPLEMENTATION)
    found = find_minimal(f"target:{tmp_path}/broken.py:Broken", "3.3", max_streams=3)
    assert (found.depth, found.streams, found.minimality, found.value) == (3, 2, "searched", 3.375)
    assert found.entries == 0
    path = tmp_path / "x.safetensors"
    save(found, path)
    assert replay(path, trust=True).verdict == "FAILED"
    # Of another length: a bytecode cache tells files by second and size.
    (tmp_path / "broken.py").write_text(IMPLEMENTATION.replace("1.5", "1.000"))
    for name in [name for name in sys.modules if name.startswith("_mhc_target_broken")]:
        del sys.modules[name]
    assert replay(path, trust=True).verdict == "FIXED"


@pytest.mark.slow
def test_the_reference_as_a_target_gives_what_the_family_gives():
    found = find_minimal("target:ref:PAPER", "1.6", gain="backward", max_streams=3)
    assert (found.depth, found.streams) == (1, 3)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("residual", {"threshold": 100, "branch_bound": "0.5"}),
        ("hc", {"threshold": 3, "entry_bound": "1.25"}),
        ("mhc", {"threshold": "1.2", "gain": "backward", "iterations": 1}),
        ("block:linear", {"threshold": 5, "gain": "activation"}),
    ],
)
def test_the_bound_of_a_picture_is_a_bound_and_reaches_the_threshold(family, options):
    found = find_minimal(family, **options)
    limits = found.request.bounds(found.configuration)
    assert len(limits) == found.depth
    assert limits == sorted(limits)
    assert limits[-1] >= float(str(found.exact_value)) * (1 - 1e-12)


@pytest.mark.slow
def test_a_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    draw(find_minimal("hc", 100, identity_bound="1"), tmp_path / "x.svg")
    drawn = (tmp_path / "x.svg").read_text()
    assert drawn.rstrip().endswith("</svg>")
    assert drawn.count("<path") > 20  # a curve, a bound, and the entries of a matrix
    with pytest.raises(PictureError, match=r"x\.xyz"):
        draw(find_minimal("residual", 3), tmp_path / "x.xyz")


@pytest.mark.slow
def test_a_picture_that_cannot_be_written_leaves_what_stood_there(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    place = tmp_path / "x.svg"
    place.write_text("the picture of before")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        draw(find_minimal("hc", 100, identity_bound="1"), place)
    assert place.read_text() == "the picture of before"
    assert list(tmp_path.iterdir()) == [place]


def test_a_missing_library_or_configuration_is_named(tmp_path, monkeypatch):
    with pytest.raises(PictureError, match="nothing to draw"):
        draw(find_minimal("hc", 3, entry_bound="0.1"), tmp_path / "x.svg")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PictureError, match="pip install 'mhc-properties"):
        draw(find_minimal("residual", 3), tmp_path / "x.svg")


@pytest.mark.parametrize("width", [1, 4, 5, 16, 100])
@pytest.mark.parametrize("inside", [True, False])
def test_the_steepest_slope_of_a_normalisation_is_a_bound_and_attained(width, inside):
    """Beyond 4 channels (9 with eps outside the root) the slope is largest away from zero."""
    eps = 1e-3
    dialect = PAPER.with_(rms_eps=eps, rms_eps_inside=inside)
    limit, best = float(steepest(dialect, width)), 0.0
    assert (limit * eps ** (0.5 if inside else 1) > 1 + 1e-9) == (width > (4 if inside else 9))
    for size, turn in itertools.product(torch.logspace(-5, 0, 60, dtype=torch.float64), torch.linspace(0, 1.5, 16)):
        if width > 1 or not turn:
            u = torch.full((width,), math.cos(turn) / max(width - 1, 1) ** 0.5, dtype=torch.float64)
            u[0] = math.sin(turn) if width > 1 else 1.0
            u = u * size
            sigma = u.square().mean().sqrt()
            rho = (sigma**2 + eps).sqrt() if inside else sigma + eps
            outer = torch.outer(u, u) / (width * (rho**3 if inside else sigma * rho**2))
            jacobian = torch.eye(width, dtype=torch.float64) / rho - outer
            best = max(best, jacobian.abs().sum(1).max().item())
    assert limit * 0.98 <= best <= limit * (1 + 1e-9)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("block:linear:post", {"branch_bound": "1e6"}),  # the state before a post-norm is stored too
        ("block:linear", {"branch_bound": "40000", "max_depth": 1}),  # and so is the output of a branch
        ("block:linear", {"branch_bound": "0.25", "max_depth": 10}),  # 3^10 = 59049, but four streams are read at once
    ],
)
def test_what_is_stored_on_the_way_overflows_too(family, options):
    found = find_minimal(family, 1, gain="nonfinite", dtype="float16", **options)
    assert (found.found, found.impossible, found.value) == (True, False, math.inf)


def test_a_threshold_that_is_the_envelope_itself_is_excluded():
    """1 + 2 * 0.35 * 20 = 15, which open gates approach and never reach; in binary 0.35 is less than that."""
    found = find_minimal("block:linear:pre", 15, branch_bound="0.35")
    assert (found.depth, found.minimality) == (21, "proved")


def test_the_gain_of_a_block_is_its_activation_unless_another_is_asked_for():
    assert find_minimal("block:relu", 4).gain == "activation"
    assert find_minimal("residual", 2).gain == "forward"
