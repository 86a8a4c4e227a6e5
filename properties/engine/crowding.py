"""The search of a law that draws its inputs: its own sizes, and once more each sizes beyond a tile."""

from __future__ import annotations

import torch

from properties.core.trial import LawBroken
from properties.engine.search import Search
from properties.engine.spread import LESS, crowds, some_by_name
from properties.strategies import Setting

_FIRST = 2000
"""The number of the first crowd, from which its seed is made."""
_TRIED_IN_LESS = 4
"""Examples of each of the smaller sizes, once something has failed at large ones."""


class Crowding(Search):
    """The search for one law at what it draws, and in crowds (`properties.strategies.setting.Crowd`)."""

    def _everywhere(self) -> None:
        super()._everywhere()
        if self.law.sweep is not None or not self.profile.examples or not self.law.schedule.crowds:
            return
        if self.law.kind == "oracle" and self.subject.dtype == torch.float64:
            return  # float64 cannot judge itself, and mpmath would take a minute for so many tokens
        every = list(enumerate(crowds(self.subject.setting(self.law), self.law.kind)))
        for number, frame in some_by_name(every, self.profile.crowds, self.law.id, self.randomness):
            self._in_a_crowd(frame, _FIRST + number)

    def _in_a_crowd(self, frame: Setting, index: int) -> None:
        """Try one example of large sizes; where it fails, with as little of them as is enough.

        Raises:
            LawBroken: it failed, with a cause that is not known.
        """
        try:
            self._among(frame, 2, index, skip=True)
        except LawBroken as broken:
            if self._hangs or not self.profile.shrink:
                raise
            for number, less in enumerate(LESS):
                try:
                    self._among(frame.with_(crowd=less), _TRIED_IN_LESS, index + 10 * (number + 1))
                except LawBroken as smaller:
                    self.also.append(f"it was found with {frame.crowd}, and {less} are enough")
                    raise smaller from None
            found = f"it was found with {frame.crowd}"
            self.also.append(f"{found}, and held in {_TRIED_IN_LESS} examples each of less than that")
            raise broken from None
