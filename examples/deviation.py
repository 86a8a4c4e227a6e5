"""A wrong implementation on purpose: the reference cut into steps, of which one is wrong.

mhc-properties check examples/deviation.py:Mine -x --law block --dtype float64

With a line in a table a class like this joins the package's own list: docs/writing-a-deviation.md.
"""

from mhc_ref import PAPER
from properties.core.deviant import Deviant


class SpreadBySoftmax(Deviant):
    """The branch output reaches stream i with weight softmax(h_post)_i, whose sum is 1 whatever the gates say."""

    def spread(self, y, h_post):  # y [..., C], h_post [..., n] -> what is added to the streams, [..., n, C]
        return super().spread(y, h_post.softmax(-1))


Mine = SpreadBySoftmax(PAPER, "spread-by-softmax")
"""It declares the dialect PAPER, and computes something else."""
