"""The rest of the exam: gradients, coarse dtypes, and the circumstances of a call that must not matter."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mhc_ref import Params
from properties.bounds import Approx
from properties.core.case import BranchSpec
from properties.core.family import mix_of
from properties.core.reads import as_pre_takes
from properties.diagnosis import probe
from properties.diagnosis.exam import Source, ends_as_declared
from properties.diagnosis.judge import Judge
from properties.diagnosis.probe import Probe
from properties.diagnosis.view import Frame, View


def gradients(frame: Frame, seed: int) -> list[Probe]:
    """Vector-Jacobian products of the projection and of a block, for random cotangents."""
    if not frame.differentiable:
        return []
    source, n = Source(frame, seed, frame.dtype), frame.n
    found: list[Probe] = []
    if "project" in frame.own:
        few = source.few(3)
        inputs = source.logits(few, n, 2.0, seed=301), source.normal(few, n, n, seed=302).to(frame.parameter_dtype)
        name = "the gradient of the projection"
        found.append(
            Probe(name, "gradient", frame.dtype, inputs, _pull_projection, _pulled_projection, (False,), "project")
        )
    if "block" in frame.offered:
        x = torch.cat([source.state((2,), n, 5, seed=303, tame=True), 1e-4 * source.state((3,), n, 5, 304, tame=True)])
        x, params = x[: source.few(5)].contiguous(), source.params(n, 5, seed=305)
        found.append(_of_block("the gradient of a block", source, x, params, seed=306))
        x, params = source.state((source.few(2),), n, 3, seed=308, tame=True), saturated(source, n, seed=309)
        found.append(_of_block("the gradient of a block with saturated gates", source, x, params, seed=311))
    if ends_as_declared(frame):
        params = tuple(source.params(n, 3, seed=310 + 10 * k) for k in range(2 + frame.head))
        branches = tuple(source.branch(3, seed=340 + k) for k in range(2))
        h, cotangent = (source.outputs(source.few(3), 3, seed=350 + k) for k in range(2))
        narrow = (True, *(False for one in params for part in one if part is not None))
        inputs = h, n, params, branches, cotangent
        found.append(
            Probe(
                "the gradient of a stack", "gradient", frame.dtype, inputs, _pull_stack, _pulled_stack, narrow, "depth"
            )
        )
    return found


def _of_block(name: str, source: Source, x: Tensor, params: Params, seed: int) -> Probe:
    narrow = (True, *(False for part in params if part is not None))
    inputs = x, params, source.branch(x.shape[-1], seed=seed), source.outputs(*x.shape, seed=seed + 1)
    return Probe(name, "gradient", source.dtype, inputs, _pull_block, _pulled_block, narrow, "block")


def _pull_projection(view: View, logits: Tensor, cotangent: Tensor) -> list[Tensor]:
    leaf = logits.requires_grad_()
    return view.pulled([view.project(leaf)], [leaf], [cotangent])


def _pulled_projection(judge: Judge, logits: Tensor, cotangent: Tensor) -> list[Approx]:
    return [judge.project_gradient(logits, cotangent)]


def _pull_block(view: View, x: Tensor, params: Params, branch: BranchSpec, cotangent: Tensor) -> list[Tensor]:
    given: tuple[Tensor | None, ...] = (x, *params)
    leaves = [one.requires_grad_() for one in given if one is not None]
    return view.pulled([view.block(leaves[0], Params(*leaves[1:]), branch)[-1]], leaves, [cotangent])


def _pulled_block(judge: Judge, x: Tensor, params: Params, branch: BranchSpec, cotangent: Tensor) -> list[Approx]:
    return judge.block_gradient(x, params, branch, cotangent)


def _pull_stack(
    view: View, h: Tensor, n: int, params: tuple[Params, ...], branches: tuple[BranchSpec, ...], cotangent: Tensor
) -> list[Tensor]:
    leaves = [h.requires_grad_(), *(part.requires_grad_() for one in params for part in one if part is not None)]
    return view.pulled([view.stack(leaves[0], params, branches)[-1]], leaves, [cotangent])


def _pulled_stack(
    judge: Judge, h: Tensor, n: int, params: tuple[Params, ...], branches: tuple[BranchSpec, ...], cotangent: Tensor
) -> list[Approx]:
    return judge.stack_gradient(h, n, params, branches, cotangent)


def coarse(frame: Frame, seed: int) -> list[Probe]:
    """A block for states of every coarser dtype, and its parts for the coarsest."""
    found: list[Probe] = []
    for k, dtype in enumerate(frame.coarse):
        source, n = Source(frame, seed + 7 * k, dtype), frame.n
        name, few = str(dtype).removeprefix("torch."), source.few(17)
        x, params = source.state((few,), n, 9, seed=401, tame=True), source.params(n, 9, seed=402)
        parts = dtype == frame.coarse[-1] or "block" not in frame.offered
        if "mappings" in frame.own and parts:
            found.append(probe.mappings(f"mappings in {name}", x, params, frame.emits, "precision"))
        if "pre" in frame.offered and parts:
            h_pre = as_pre_takes(source.normal(few, n, seed=403).float(), x, frame.packing)
            found.append(probe.pre(f"h_pre x in {name}", x, h_pre, "precision"))
        if "post" in frame.offered and parts:
            y, h_post = source.outputs(few, 9, seed=404), source.normal(few, n, seed=405).float()
            h_res = source.normal(few, n, n, seed=406).float()
            found.append(probe.post(f"A x + h_post y in {name}", (x, y, h_post, h_res), "precision"))
        if "block" in frame.offered:
            found.append(probe.block(f"a block in {name}", x, params, source.branch(9, seed=407), "precision"))
    return found


def fading(frame: Frame, seed: int) -> list[Probe]:
    """Coefficients of coarser states whose squares are about the eps of float32, or that of their dtype, if that is
    another one."""
    found: list[Probe] = []
    for k, dtype in enumerate(frame.coarse):
        source, n = Source(frame, seed + 7 * k, dtype), frame.n
        x = source.state((source.few(3),), n, 5, seed=421, tame=True)
        x, params = (
            x * (2.0 ** torch.tensor([-12, -4, -8])[: len(x)]).to(dtype).view(-1, 1, 1),
            source.params(n, 5, 422),
        )
        name = f"of small states in {str(dtype).removeprefix('torch.')}"
        if "mappings" in frame.own:
            found.append(probe.mappings(f"mappings {name}", x, params, frame.emits, "precision"))
        elif "block" in frame.offered:
            found.append(probe.block(f"a block {name}", x, params, source.branch(5, seed=423), "precision"))
    return found


def executions(frame: Frame, seed: int) -> list[Probe]:
    """Inputs that must stay as they are, calls that must not remember, strides, shapes, and what is not finite."""
    source, n = Source(frame, seed, frame.dtype), frame.n
    found: list[Probe] = []
    if "project" in frame.own:
        found += _projections(source, n)
    if "post" in frame.offered and frame.max_tokens >= 5:
        found += _posts(source, n)
    if "mappings" in frame.own and "block" not in frame.offered:
        x, params = source.state((130,), n, 3, seed=510, tame=True), source.params(n, 3, seed=511)
        found.append(probe.mappings("mappings of 130 tokens", x[: frame.max_tokens], params, frame.emits, "execution"))
    if "block" in frame.offered:
        found += _blocks(source, n)
    if "mappings" in frame.own or "block" in frame.offered:
        x, params = source.state((source.few(3),), n, 3, seed=512, tame=True), saturated(source, n, seed=513)
        if "mappings" in frame.own:
            found.append(probe.mappings("saturated gates", x, params, frame.emits))
        else:
            found.append(probe.block("saturated gates", x, params, source.branch(3, seed=514)))
    return found


def saturated(source: Source, n: int, seed: int) -> Params:
    """Parameters for 3 channels, with biases of the gates of both signs beyond what exp can represent."""
    params = source.params(n, 3, seed=seed)
    gates = params.bias[: 2 * n]
    gates.copy_(1.5 * source.frame.depth * (1 - 2 * (torch.arange(len(gates)) % 2)))
    return params


def _projections(source: Source, n: int) -> Iterator[Probe]:
    few = source.few(6)
    z, later = source.logits(few, n, 1.0, seed=501), source.logits(few, n, 2.0, seed=502)

    def observe(view: View, z: Tensor, later: Tensor) -> list[Tensor]:
        return [view.project(z), view.project(later), z]

    def expect(judge: Judge, z: Tensor, later: Tensor) -> list[Approx]:
        return [judge.project(z), judge.project(later), Approx.exact(z)]

    yield Probe(
        "two projections of one shape", "execution", source.dtype, (z, later), observe, expect, (False,) * 3, "project"
    )

    def poisoned(view: View, z: Tensor) -> list[Tensor]:
        hit = z.clone()
        hit[(0,) * z.ndim] = float("nan")
        return [view.project(hit).isnan().flatten(1).any(1).to(z.dtype)]

    def reached(judge: Judge, z: Tensor) -> list[Approx]:
        first = torch.arange(len(z)) == 0
        return [Approx.exact((first & (not mix_of(judge.dialect).guarantees(judge.dialect).constant)).to(z.dtype))]

    if z.numel():  # a mix may have none
        yield Probe("a NaN among the logits", "execution", source.dtype, (z,), poisoned, reached, (False,), "project")
    if source.frame.strided:

        def spaced(view: View, z: Tensor) -> list[Tensor]:
            return [view.project(z[::2])]

        def expected(judge: Judge, z: Tensor) -> list[Approx]:
            return [judge.project(z[::2])]

        logits = (source.logits(2 * source.few(4), n, 1.0, seed=503),)
        yield Probe(
            "logits in every second place", "execution", source.dtype, logits, spaced, expected, (False,), "project"
        )


def _posts(source: Source, n: int) -> Iterator[Probe]:
    dtype = source.frame.parameter_dtype
    y = source.outputs(4, 2, seed=505)
    y[0, 0], y[1, 0] = float("nan"), float("inf")
    x = 1e4 * source.outputs(4, n, 2, seed=506)
    inputs = x, y, source.normal(4, n, seed=507).to(dtype), source.normal(4, n, n, seed=508).to(dtype)

    def observe(view: View, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> list[Tensor]:
        return [view.call("post", x, y, h_post, h_res)]

    def expect(judge: Judge, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> list[Approx]:
        found = judge.post(x, y, h_post, h_res)  # what is not finite is claimed too
        return [Approx(found.value, torch.where(torch.isfinite(found.value), found.error, 0.0))]

    yield Probe("numbers that are not finite", "execution", source.dtype, inputs, observe, expect, (True,), "post")
    if source.frame.strided:
        x, y = source.state((5,), n, 3, seed=520, tame=True), source.outputs(5, 3, seed=521)
        inputs = x, y, source.normal(5, n, seed=522).to(dtype), source.normal(5, n, n, seed=523).to(dtype)

        def viewed(view: View, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> list[Tensor]:
            spaced = torch.stack([h_post, h_post + 1], -1)[..., 0]
            return [view.call("post", x, y, spaced, h_res.mT.contiguous().mT)]

        yield Probe("h_post and h_res as views", "execution", source.dtype, inputs, viewed, expect, (True,), "post")


def _blocks(source: Source, n: int) -> Iterator[Probe]:
    frame = source.frame
    branch, params, other = source.branch(4, seed=530), source.params(n, 4, seed=532), source.params(n, 4, seed=533)
    shapes: list[tuple[tuple[int, ...], int]] = [((), 4), ((source.few(6),), 1)]
    shapes += [((2, 3), 4)] if frame.max_tokens >= 6 else []
    shapes += [((0,), 4)] if frame.zero_tokens else []
    shapes += [((130,), 4)] if frame.max_tokens >= 130 else []
    for tokens, channels in shapes:
        x = source.state(tokens, n, channels, seed=534, tame=True)
        own = params if channels == 4 else source.params(n, channels, seed=535)
        name = f"a block of tokens {list(tokens)}, {channels} channel{'s' * (channels > 1)}"
        yield probe.block(name, x, own, branch if channels == 4 else source.branch(1, seed=531), "execution")
    first, second = (source.state((source.few(3),), n, 4, seed=540 + k, tame=True) for k in range(2))

    def repeated(view: View, first: Tensor, second: Tensor, params: Params, other: Params) -> list[Tensor]:
        one = view.block(first, params, branch)[-1]
        storage = first.clone()
        view.block(storage, params, branch)
        after = storage.clone()
        storage.copy_(second)  # the same storage, new data
        two = view.block(storage, params, branch)[-1]
        three = view.block(second, other, branch)[-1]
        for kept, new in zip(params, other, strict=True):
            if kept is not None and new is not None:
                kept.copy_(new)  # a step of an optimiser
        return [one, two, three, view.block(second, params, branch)[-1], after]

    def unmoved(judge: Judge, first: Tensor, second: Tensor, params: Params, other: Params) -> list[Approx]:
        return [
            judge.block(first, params, branch)[-1],
            judge.block(second, params, branch)[-1],
            judge.block(second, other, branch)[-1],
            judge.block(second, other, branch)[-1],
            Approx.exact(first),
        ]

    inputs = first, second, params, other
    yield Probe("blocks in one storage", "execution", source.dtype, inputs, repeated, unmoved, (True,) * 5, "block")

    def quiet(view: View, x: Tensor, params: Params, branch: BranchSpec) -> list[Tensor]:
        with torch.no_grad():
            return view.block(x, params, branch)

    def strided(view: View, x: Tensor, params: Params, branch: BranchSpec) -> list[Tensor]:
        return view.block(x.transpose(0, 2).contiguous().transpose(0, 2), params, branch)

    predicted, both = probe.predicted_block, (True, True)
    inputs = first, params, branch
    yield Probe("a block without gradients", "execution", source.dtype, inputs, quiet, predicted, both, "block")
    if frame.strided:
        inputs = source.state((source.few(5),), n, 4, seed=545, tame=True), params, branch
        yield Probe(
            "a block of a state with other strides",
            "execution",
            source.dtype,
            inputs,
            strided,
            predicted,
            both,
            "block",
        )
