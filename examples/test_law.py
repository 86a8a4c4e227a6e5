"""A law of your own, and a test of it: `pytest examples/test_law.py`.

A law is a function that draws nothing and picks no tolerance: a strategy draws the case, and a bound is derived. Its
docstring is the statement, an empty line, and the reason why it holds.
"""

from by_hand import Mine

from properties.conformance import conformance
from properties.core.law import law
from properties.core.trial import wide
from properties.laws import errors
from properties.laws.mixing import matrix_cases, still

UNIT = 2.0**-53
"""The unit roundoff of float64, in which the law itself computes."""


@law("mixing.equal-streams-see-row-sums-alone", "identity", matrix_cases, needs=("post",))
def equal_streams_see_row_sums_alone(trial, case):
    """Where all streams are v and the branch is silent, stream i becomes v times the sum of row i of A.

    (A x)_i = sum_j A_ij v. What rounding may do to `post` is derived for this state (`errors.post`). The law adds n
    numbers and multiplies once, n roundings of float64: gamma_n of the sum of magnitudes (docs/mathematics.md).
    """
    n, v = case.x.shape[-2], case.x[..., :1, :]
    x = v.expand(case.x.shape).contiguous()
    y, h_post = still(x, trial)
    a = wide(case.h_res.mT if trial.dialect.transposed else case.h_res)
    expected = a.sum(-1, keepdim=True) * wide(v)
    own = n * UNIT / (1 - n * UNIT) * a.abs().sum(-1, keepdim=True) * wide(v).abs()
    bound = errors.post(trial, x, case.h_res, y, h_post).error + own
    trial.within("equal streams", trial.post(x, y, h_post, case.h_res), expected, bound)


test_law = conformance(Mine, laws=equal_streams_see_row_sums_alone)
