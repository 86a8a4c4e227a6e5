"""From matrices to the fields of Sinkhorn: axes, start, iterations, eps.

No field is guessed from a list. entry_eps is read off an odds ratio, which no scaling of rows and columns changes
(docs/mathematics.md); iterations off [[1, 1], [0, 1]], whose sums are 2t/(2t+1) and (2t+2)/(2t+1) after t of them; the
eps of the denominators off a starved line, whose sum grows by 1/eps an iteration. Axes, start and kind of denominator
are few: each combination is completed in this way, and kept where it reproduces every matrix within the bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Dialect
from properties import bounds
from properties.core.deviant import DIM
from properties.core.estimate import Candidate, Estimate, Matrices, logit, ratio
from properties.core.questions import Questions, starve, with_depths
from properties.core.rounding import Approx, Rounding
from properties.core.truth import wide
from properties.families.fits.sinkhorn.recurrence import trajectory, zero_of

MOST_ITERATIONS = 400
"""Above it the triangular matrix is as good as converged for every eps that is in use."""


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
                asked = with_depths(asked, axis, fallen, between, logits)
        return replace(self, asked=asked, matrices=matrices, reading=reading)

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
            limit = zero_of(lambda e: self._line(z, rough, e) - 1 + error, low, high, steps=24)
            return self._feasible(rough, most=math.exp(limit))
        target = logit(min(max(observed, 1e-300), 1 - 1e-16))

        def missed(log_eps: float) -> float:
            return logit(min(max(self._line(z, rough, log_eps), 1e-300), 1 - 1e-16)) - target

        root = zero_of(missed, low, high)
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
            root = zero_of(lambda e: self._line(z, rough, e) - observed, low, high)
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
