"""What a law makes of parameters that are stored in a short dtype has values of it, or nobody could be handed them."""

from __future__ import annotations

import pytest
import torch

from mhc_ref import PAPER
from properties.catalogue.controls_of_dtypes import ShortParameters
from properties.core.case import Case
from properties.core.law import all_laws
from properties.engine.subject import Subject
from properties.engine.trying import try_case
from properties.laws.coefficients_parameters import COARSEST, of_few_bits
from properties.strategies import Setting, coarse

BF16 = torch.bfloat16
X = torch.arange(1.0, 7.0).view(1, 2, 3).to(BF16)

ROUTED = {
    "block.permutation-limit-carries-streams": Case(x=X, order=(1, 0)),
    "depth.streams-persist-through-layers": Case(x=X, orders=((1, 0),)),
    "depth.streams-persist-through-many-layers": Case(x=X, orders=((1, 0), (0, 1))),
    "depth.streams-persist-through-the-stack": Case(h=X[:, 0], n=2, orders=((1, 0),), spread=1.0),
    "depth.branches-read-with-the-declared-gates": Case(x=X, orders=((1, 0), (0, 1)), seed=3),
}


@pytest.mark.parametrize("law", ROUTED)
def test_logits_of_a_permutation_are_stored_at_any_temperature(law: str) -> None:
    """60 times a temperature of 0.07 is 4.2, which bfloat16 does not have."""
    target = ShortParameters(PAPER.with_(temperature=0.07))
    subject = Subject("target", target, BF16, torch.device("cpu"))
    assert try_case(all_laws()[law], subject, ROUTED[law]).claims


@pytest.mark.parametrize("dtype", [BF16, torch.float16], ids=str)
@pytest.mark.parametrize("offset", [0.0, 1.0, -2.0])
def test_a_norm_weight_that_phi_absorbs_leaves_it_values_that_are_stored(dtype: torch.dtype, offset: float) -> None:
    """11.125 is stored in bfloat16, and 3 times that is not."""
    setting = Setting(PAPER.with_(norm_offset=offset), (1,), dtype, parameters="state")
    wide = torch.cat([torch.linspace(-300, 300, 4001), torch.tensor([11.125])])
    few = of_few_bits(wide, setting)
    weights = offset + torch.tensor(coarse(1, 100))
    assert weights.abs().max() == abs(offset) + COARSEST
    for stored in (few, weights.unsqueeze(-1) * few):
        assert torch.equal(stored.to(dtype).to(stored.dtype), stored)
    ordinary = wide.abs() < 6
    assert torch.equal(few[ordinary], (8 * wide[ordinary]).round() / 8)
