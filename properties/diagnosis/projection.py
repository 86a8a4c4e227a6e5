"""From matrices to the fields of the projection: residual, axes, start, iterations, eps.

No field is guessed from a list. entry_eps is read off an odds ratio, which no scaling of rows and columns changes
(docs/mathematics.md); iterations off [[1, 1], [0, 1]], whose sums are 2t/(2t+1) and (2t+2)/(2t+1) after t of them; the
eps of the denominators off a starved line, whose sum grows by 1/eps an iteration. Axes, start and kind of denominator
are few: each combination is completed in this way, and kept where it reproduces every matrix within the bound.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

import mhc_ref
from mhc_ref import PRESETS, Dialect
from mhc_ref.dialect import Axis
from properties import bounds
from properties.bounds import Approx, Rounding
from properties.core.trial import wide
from properties.diagnosis.estimate import Estimate, logit
from properties.diagnosis.judge import ratio

DIM: dict[Axis, int] = {"row": -1, "column": -2}
MOST_ITERATIONS = 400
"""Above it the triangular matrix is as good as converged for every eps that is in use."""

Matrices = Callable[[Tensor], tuple[Tensor, Tensor]]
"""logits [k, n, n] -> the matrices in float64, and the error that reading them off added to the target's own."""


@dataclass(frozen=True)
class Candidate:
    """Values of some fields that reproduce what was observed; measured fields have an estimate beside the value."""

    fields: dict[str, Any]
    estimates: dict[str, Estimate] = field(default_factory=lambda: {})
    ratio: float = 0.0

    def dialect(self, base: Dialect = PRESETS.default) -> Dialect:
        """`base` with these values."""
        return base.with_(**self.fields)


@dataclass(frozen=True)
class Questions:
    """The logits that are asked for, [k, n, n], and which of them is which."""

    logits: Tensor
    diagonal: int
    triangular: slice
    starved: dict[Axis, slice]
    depths: dict[Axis, list[float]]
    base: Tensor


def starve(base: Tensor, axis: Axis, depths: list[float]) -> Tensor:
    """The first line of an axis lowered by every depth."""
    lines = base.repeat(len(depths), 1, 1)
    lines[:, 0] -= torch.tensor(depths, dtype=torch.float64).unsqueeze(-1)
    return lines if axis == "row" else lines.mT


def questions(n: int, depth: float, dtype: torch.dtype, ladder: int = 25) -> Questions:
    """Diagonal, triangular, random, shifted and starved logits, and some at which the iteration is slow to converge."""
    eye = torch.eye(n, dtype=torch.float64)
    diagonal = [-(1 - eye) * a for a in (8.0, 16.0, depth)]
    corner = torch.zeros(n, n, dtype=torch.float64)
    corner[1, 0] = -depth
    corner[2:, :2], corner[:2, 2:] = -depth, -depth
    if n > 3:
        corner[2:, 2:] -= depth * (1 - torch.eye(n - 2))
    triangular = [corner, corner.T]
    noise = torch.randn(5, n, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    line = torch.linspace(-3, 4, n, dtype=torch.float64)
    scaled = noise[:4] * torch.tensor([1.0, 2, 4, 8], dtype=torch.float64).view(-1, 1, 1)
    random = [*scaled, noise[0] + line, noise[0] + line.unsqueeze(-1)]
    depths = torch.linspace(0, depth, ladder).tolist()
    rows, columns = starve(noise[4], "row", depths), starve(noise[4], "column", depths)
    slow = torch.randn(4, n, n, generator=torch.Generator().manual_seed(50 + n), dtype=torch.float64)
    slow[0] -= 30 * torch.ones(n, n).triu(1)
    slow[1] -= 30 * torch.ones(n, n).tril(-1)
    slow[2:] *= 8
    slow[2, 0] -= 20
    slow[3, :, 0] -= 20
    parts = [torch.stack(diagonal), torch.stack(triangular), torch.stack(random), rows, columns, slow]
    logits = torch.cat(parts).to(dtype)
    after = [0, *itertools.accumulate(len(part) for part in parts)]
    return Questions(
        logits,
        diagonal=2,
        triangular=slice(after[1], after[2]),
        starved={"row": slice(after[3], after[4]), "column": slice(after[4], after[5])},
        depths={"row": depths, "column": depths},
        base=noise[4],
    )


def fit(
    read: Matrices,
    n: int,
    rounding: Rounding,
    depth: float,
    dtype: torch.dtype,
    most: int,
    declared: Dialect | None = None,
) -> list[Candidate]:
    """Every combination of the projection's fields that reproduces the target's matrices within the bound."""
    asked = questions(n, depth, dtype, ladder=25 if most >= 64 else 7)
    chunks = [read(part) for part in asked.logits.split(max(1, most))]
    eps = declared.denominator_eps if declared is not None and declared.denominator == "clamp" else 0.0
    seen = Seen(asked, torch.cat([a for a, _ in chunks]), torch.cat([b for _, b in chunks]), rounding, clamp=eps)
    plain = list(seen.plain())
    if plain:
        return plain
    seen = seen.refined(read, 4 if most < 64 else min(most, 16))
    found: list[Candidate] = []
    for last, start in itertools.product(("row", "column"), ("exp", "row", "column")):
        fields = {"residual": "sinkhorn", "last_axis": last, "start": "exp" if start == "exp" else "softmax"}
        fields["start_axis"] = start if start != "exp" else "row"
        for denominator in ("add", "clamp"):
            found += seen.completed(PRESETS.default.with_(**fields, rms_eps=0.0, denominator=denominator))
    return _without_repetition(found)


def _without_repetition(found: list[Candidate]) -> list[Candidate]:
    kept: dict[tuple[Any, ...], Candidate] = {}
    for one in found:
        kept.setdefault(tuple(sorted(one.fields.items())), one)
    return list(kept.values())


@dataclass(frozen=True)
class Seen:
    """The matrices that the target gave for the questions; `slack` is the relative error of the logits asked for.

    `clamp` is a clamping eps worth trying where it cannot be measured: the declared one.
    """

    asked: Questions
    matrices: Tensor
    reading: Tensor
    rounding: Rounding
    slack: float = 0.0
    clamp: float = 0.0

    def refined(self, read: Matrices, count: int) -> Seen:
        """With starved lines at more depths where a sum falls from almost 1 to almost 0 between two of them."""
        asked, matrices, reading = self.asked, self.matrices, self.reading
        for axis in asked.starved:
            for _ in range(6):
                lines, depths = asked.starved[axis], asked.depths[axis]
                sums = matrices[lines].sum(DIM[axis])[:, 0].tolist()
                fallen = next((k for k in range(1, len(sums)) if not sums[k] > 1e-3), 0)
                if not fallen or depths[fallen] - depths[fallen - 1] < 2 or not sums[fallen - 1] > 1 - 1e-3:
                    break
                between = torch.linspace(depths[fallen - 1], depths[fallen], count + 2).tolist()[1:-1]
                logits = starve(asked.base, axis, between).to(asked.logits.dtype)
                value, error = read(logits)
                at = lines.start + fallen
                matrices = torch.cat([matrices[:at], value, matrices[at:]])
                reading = torch.cat([reading[:at], error, reading[at:]])
                asked = _with_depths(asked, axis, fallen, between, logits)
        return replace(self, asked=asked, matrices=matrices, reading=reading)

    def plain(self) -> Iterator[Candidate]:
        """No projection at all: the logits themselves, or the identity."""
        z = wide(self.asked.logits)
        slack = self.reading + 4 * self.rounding.unit * (1 + z.abs())
        if ratio(self.matrices, z, slack) <= 1:
            yield Candidate({"residual": "unconstrained"})
        if ratio(self.matrices, torch.eye(z.shape[-1], dtype=torch.float64).expand_as(z), slack) <= 1:
            yield Candidate({"residual": "identity"})

    def completed(self, dialect: Dialect) -> list[Candidate]:
        """The dialect with its eps and its iterations, where it then reproduces everything."""
        entry = self.entry_eps(dialect)
        dialect = dialect.with_(entry_eps=entry.shortest())
        rough = dialect.with_(denominator_eps=self.first_denominator_eps(dialect))
        found: list[Candidate] = []
        for count in self.iterations(rough):
            if self.distance(rough.with_(iterations=count)) > 1e-2:
                continue
            denominator = self.denominator_eps(rough.with_(iterations=count))
            tried = measured(dialect.with_(iterations=count), denominator)
            if tried is None:
                continue
            worst = self.ratio_of(tried)
            if worst > 1 and self.ratio_of(tried, starved=False) <= 1:
                denominator = self.searched_eps(tried)
                tried = measured(tried, denominator) or tried
                worst = self.ratio_of(tried)
            if worst > 1:
                continue
            found.append(self._candidate(tried, entry, denominator, worst))
            # The limit may have been reached before: then no count is certain.
            for other in (count + 1, count - 1, 2 * count):
                if other < 0 or self.distance(tried.with_(iterations=other)) > 1e4 * self.rounding.unit * (1 + count):
                    continue
                if (worst := self.ratio_of(tried.with_(iterations=other))) <= 1:
                    found.append(self._candidate(tried.with_(iterations=other), entry, denominator, worst))
        return found

    def distance(self, dialect: Dialect) -> float:
        """The largest difference at the triangular and random logits."""
        part = slice(self.asked.triangular.start, self.asked.starved["row"].start)
        exact = mhc_ref.project(wide(self.asked.logits[part]), dialect)
        return float((self.matrices[part] - exact).abs().nan_to_num(nan=math.inf).max())

    def _candidate(self, dialect: Dialect, entry: Estimate, denominator: Estimate, worst: float) -> Candidate:
        names = ("residual", "last_axis", "start", "start_axis", "iterations", "denominator")
        fields = {name: getattr(dialect, name) for name in names}
        fields |= {"entry_eps": dialect.entry_eps, "denominator_eps": dialect.denominator_eps}
        return Candidate(fields, {"entry_eps": entry, "denominator_eps": denominator}, worst)

    def entry_eps(self, dialect: Dialect) -> Estimate:
        """From diag logits 0 and -a off it: M is a multiple of its start, (1 + e) : (e^-a + e), or of its softmax."""
        matrix = self.matrices[self.asked.diagonal]
        n = matrix.shape[-1]
        if n == 1:
            return Estimate.below(math.inf)
        on = float(matrix.diagonal().mean())
        off = float(matrix[~torch.eye(n, dtype=torch.bool)].mean())
        share = math.exp(float(self.asked.logits[self.asked.diagonal].min()))
        unsure = float(self.reading[self.asked.diagonal].max())
        reach = max(on, unsure)
        if off <= unsure and reach > 0:
            return Estimate.below((abs(off) + unsure) / reach)
        odds = on / off if off > 0 else math.inf
        if not math.isfinite(odds) or off <= 4 * share * on or on <= off:  # no matrix with an eps looks like that
            return Estimate.below(4 * share)
        top = 1 / (1 + (n - 1) * share) if dialect.start == "softmax" else 1.0
        eps = top * (1 - odds * share) / (odds - 1)
        reading = float(self.reading[self.asked.diagonal].max()) / off
        return Estimate.around(eps, eps * (reading + (40 + 8 * abs(math.log(eps))) * self.rounding.unit) + 8 * share)

    def first_denominator_eps(self, dialect: Dialect) -> float:
        """Converged lines sum to 1 - eps: a first idea, good enough to count iterations by."""
        if dialect.denominator == "clamp":
            return 0.0
        lines = self.matrices[self.asked.diagonal].sum(DIM[dialect.last_axis])
        missing = float((1 - lines).mean())
        unsure = 4 * self.rounding.unit + float(self.reading[self.asked.diagonal].sum(DIM[dialect.last_axis]).max())
        return missing if unsure < missing < 0.5 else 0.0

    def iterations(self, dialect: Dialect) -> list[int]:
        """The counts after which the triangular matrices look as they do, within what rounding and reading explain."""
        z = wide(self.asked.logits[self.asked.triangular])
        observed = self.matrices[self.asked.triangular]
        distances: list[float] = []
        best = 0
        for count, one in enumerate(trajectory(z, dialect, MOST_ITERATIONS)):
            distances.append(float((one - observed).abs().nan_to_num(nan=math.inf).max()))
            best = count if distances[count] < 0.999 * distances[best] else best
            if count > best + 12:
                break
        least = distances[best]
        if least > 0.05:
            return []
        close = [k for k, distance in enumerate(distances) if distance <= 2 * least + 8 * self.rounding.unit]
        return close if len(close) <= 2 else [close[0], close[-1]]

    def denominator_eps(self, rough: Dialect) -> Estimate:
        """From the sum of a starved line of the last axis at the depth where it is between 0 and 1."""
        if not rough.iterations:
            return Estimate.below(0.99)
        axis = rough.last_axis
        lines = self.asked.starved[axis]
        sums = self.matrices[lines].sum(DIM[axis])[:, 0]
        visible = [k for k, s in enumerate(sums.tolist()) if 1e-12 < s < 1 - 1e-3]
        chosen = min(visible, key=lambda k: abs(float(sums[k]) - 0.5), default=len(sums) - 1)
        z = self.asked.logits[lines][chosen : chosen + 1]
        observed = float(sums[chosen])
        error = float(self.reading[lines][chosen].sum()) + observed * 64 * self.rounding.unit * (1 + rough.iterations)
        low, high = math.log(1e-300), math.log(0.999)
        if not visible and observed > 0.5:
            if rough.denominator_eps:
                return self._feasible(rough)
            limit = _root(lambda e: self._line(z, rough, e) - 1 + error, low, high, steps=24)
            return self._feasible(rough, most=math.exp(limit))
        target = logit(min(max(observed, 1e-300), 1 - 1e-16))

        def missed(log_eps: float) -> float:
            return logit(min(max(self._line(z, rough, log_eps), 1e-300), 1 - 1e-16)) - target

        root = _root(missed, low, high)
        step = 1e-3
        slope = abs(missed(root + step) - missed(root - step)) / (2 * step)
        moved = error / max(observed * (1 - observed), 1e-300) / max(slope, 1e-3)
        return Estimate.around(math.exp(root), math.exp(root) * (moved + 2e-13))

    def searched_eps(self, tried: Dialect) -> Estimate:
        """From all values where no sum of a starved line shows the eps: it decides how soon a line recovers, too."""
        if not tried.iterations:
            return Estimate.below(0.99)
        part = slice(self.asked.starved["row"].start, None)
        z, seen = wide(self.asked.logits[part]), self.matrices[part]

        def distance(log_eps: float) -> float:
            exact = mhc_ref.project(z, tried.with_(denominator_eps=math.exp(log_eps)))
            return float((seen - exact).abs().nan_to_num(nan=math.inf).max())

        step = math.log(10) / 2
        best = min((math.log(1e-20) + step * k for k in range(40)), key=distance)
        low, high = best - step, min(best + step, math.log(0.999))
        for _ in range(60):  # golden sections
            left, right = low + 0.382 * (high - low), low + 0.618 * (high - low)
            low, high = (low, right) if distance(left) <= distance(right) else (left, high)
        best = (low + high) / 2
        error = float(self.reading[part].max()) + 64 * self.rounding.unit * (1 + tried.iterations)
        best = min(best, math.log(0.998))
        slope = (distance(best + 1e-3) + distance(best - 1e-3)) / 2e-3
        return Estimate.around(math.exp(best), math.exp(best) * min(0.5, error / max(slope, 1e-300)))

    def _feasible(self, rough: Dialect, most: float = math.inf) -> Estimate:
        """From converged lines, 1 - eps each; where rounding hides it, whatever keeps everything within the bound."""
        value = rough.denominator_eps
        error = 64 * self.rounding.unit * (1 + rough.iterations)
        if value > 1e3 * error:
            z = self.asked.logits[self.asked.diagonal : self.asked.diagonal + 1]
            observed = float(self.matrices[self.asked.diagonal].sum(DIM[rough.last_axis]).mean())
            low, high = math.log(value / 2), math.log(2 * value)
            root = _root(lambda e: self._line(z, rough, e) - observed, low, high)
            return Estimate.around(math.exp(root), error)
        if rough.denominator == "clamp":
            high = min(most, 0.5)
            while high > 1e-20 and self.ratio_of(rough.with_(denominator_eps=high)) > 1:
                high /= 1000  # every step costs a bound; a bar that ends too soon must not exclude what is declared
            if self.clamp > high and self.ratio_of(rough.with_(denominator_eps=self.clamp)) <= 1:
                high = self.clamp
            return Estimate.below(high)
        if error < 1e-9:  # sharp enough: only in float32 is it worth trying what the bounds themselves admit
            return Estimate.around(value, error) if value else Estimate.below(min(error, most))

        def fits(eps: float) -> bool:
            return self.ratio_of(rough.with_(denominator_eps=eps)) <= 1

        if not fits(value):
            return Estimate.around(value, error)
        reach = [value + 32 * self.rounding.unit / 2**k for k in range(6)]
        high = next((eps for eps in reach if fits(eps)), reach[-1])  # refused, so the bar ends before it
        low = next((share * value for share in (0.0, 0.3, 0.6, 0.8) if fits(share * value)), value)
        return Estimate(value, low, min(high, most))

    def _line(self, z: Tensor, dialect: Dialect, log_eps: float) -> float:
        tried = dialect.with_(denominator_eps=math.exp(log_eps))
        return float(mhc_ref.project(wide(z), tried).sum(DIM[dialect.last_axis])[0, 0])

    def ratio_of(self, dialect: Dialect, starved: bool = True) -> float:
        """The largest error / bound over all matrices; the random ones first, as they decide most cases."""
        worst = 0.0
        random = torch.arange(len(self.matrices))
        begin, end = self.asked.triangular.stop, self.asked.starved["row"].start
        for part in (random[begin:end], random[:begin], *([random[end:]] if starved else [])):
            exact = mhc_ref.project(wide(self.asked.logits[part]), dialect)
            if ratio(self.matrices[part], exact, self.reading[part] + 1e-2) > 1:
                return math.inf
            z = wide(self.asked.logits[part])
            bound = bounds.projection(Approx(z, self.slack * z.abs()), dialect, self.rounding)
            worst = max(worst, ratio(self.matrices[part], bound.value, bound.error + self.reading[part]))
            if worst > 1:
                return worst
        return worst


def measured(dialect: Dialect, denominator: Estimate) -> Dialect | None:
    """The dialect with an eps of the denominators within its bar, the shortest that there is; None where no such
    dialect exists: a clamp of 1 or more would change a matrix that is doubly stochastic already."""
    for eps in (denominator.shortest(), denominator.value, denominator.low):
        if math.isfinite(eps) and (dialect.denominator == "add" or eps < 1):
            return dialect.with_(denominator_eps=eps)
    return None


def _with_depths(asked: Questions, axis: Axis, at: int, depths: list[float], logits: Tensor) -> Questions:
    start = asked.starved[axis].start + at
    more = len(depths)

    def moved(lines: slice, own: bool) -> slice:
        late = lines.start > start
        return slice(lines.start + more * late, lines.stop + more * (late or own))

    own = [*asked.depths[axis][:at], *depths, *asked.depths[axis][at:]]
    return replace(
        asked,
        logits=torch.cat([asked.logits[:start], logits, asked.logits[start:]]),
        starved={name: moved(lines, name == axis) for name, lines in asked.starved.items()},
        depths=asked.depths | {axis: own},
    )


def trajectory(logits: Tensor, dialect: Dialect, most: int) -> Iterator[Tensor]:
    """M after 0, 1, 2, ... iterations, in the log domain; the same recurrence as `mhc_ref.project`."""
    yield mhc_ref.project(logits, dialect.with_(iterations=0))
    if dialect.start == "softmax":
        log_m = logits.log_softmax(DIM[dialect.start_axis])
    else:
        log_m = logits - logits.amax(DIM[dialect.first_axis], keepdim=True)
    if dialect.entry_eps:
        log_m = torch.logaddexp(log_m, log_m.new_tensor(math.log(dialect.entry_eps)))
    log_eps = log_m.new_tensor(math.log(dialect.denominator_eps) if dialect.denominator_eps else -math.inf)
    skip = dialect.softmax_is_first_half_step
    for count in range(most):
        for axis in (dialect.first_axis, dialect.last_axis):
            if skip and count == 0 and axis == dialect.first_axis:
                continue
            log_sum = log_m.logsumexp(DIM[axis], keepdim=True)
            add = dialect.denominator == "add"
            log_m = log_m - (torch.logaddexp(log_sum, log_eps) if add else log_sum.maximum(log_eps))
        yield log_m.exp()


def _root(function: Callable[[float], float], low: float, high: float, steps: int = 48) -> float:
    """The zero of a decreasing function, by bisection, then by secants that stay inside; an end if there is none."""
    at_low, at_high = function(low), function(high)
    if at_low <= 0:
        return low
    if at_high >= 0:
        return high
    side = 0
    for step in range(steps):
        guess = (low + high) / 2
        if step > 6 and steps > 24 and math.isfinite(at_low - at_high):
            guess = min(max((low * at_high - high * at_low) / (at_high - at_low), low), high)
        value = function(guess)
        if value == 0 or high - low <= 4e-16 * abs(low + high):
            return guess
        if value > 0:
            low, at_low = guess, value
            at_high = at_high / 2 if side == 1 else at_high  # Illinois: or one end would never move
            side = 1
        else:
            high, at_high = guess, value
            at_low = at_low / 2 if side == -1 else at_low
            side = -1
    return (low + high) / 2
