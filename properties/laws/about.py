"""The methods that laws are about: `law` with what such a law needs, and what such laws cannot see."""

from __future__ import annotations

from functools import partial

from properties.core.law import law

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
