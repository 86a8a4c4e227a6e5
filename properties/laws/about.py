"""The methods that laws are about: `law` with what such a law needs, and what such laws cannot see."""

from __future__ import annotations

from functools import partial

from properties.core.law import Schedule, law

project = partial(law, needs=("project",))
mappings = partial(law, needs=("mappings",))
pre = partial(law, needs=("pre",))
post = partial(law, needs=("post",))
mixing = partial(law, needs=("project", "post"))
block = partial(law, needs=("block",))
layers = partial(law, needs=("layers",))
expand = partial(law, needs=("expand",))
collapse = partial(law, needs=("collapse",))
stack = partial(law, needs=("stack",))

SYMMETRIC = ("h-res-transposed",)
"""Deviations that a law cannot see which treats rows and columns, or all matrices, alike."""

ALIKE = ("h-res-transposed", "one-iteration")
"""Deviations that a law cannot see which compares an implementation with itself: it is wrong in every call alike."""

MORE = Schedule(cost=0.6)
"""Two thirds more: what shows in one of several examples shows first where values are compared with the truth."""

HALF = Schedule(cost=2)
"""Half of the examples."""

TOGETHER = Schedule(cost=3, by_streams=False)
"""A third of them, over every n together: the bound of several blocks takes its time."""

SELDOM = Schedule(cost=5, by_streams=False)
"""A fifth of them, over every n together: an example makes many calls."""

FLOODS = Schedule(cost=7, by_streams=False)
"""A seventh of them, over every n together: an example has thousands of tokens."""
