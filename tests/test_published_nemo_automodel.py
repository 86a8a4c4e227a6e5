"""The adapters of NeMo Automodel: what goes in and comes out is what its layers take and give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Params
from properties.core.implementation import Absent, Implementation, offers
from properties.targets import published

NAMES = ("deepseek-v4", "deepseek-v41", "glm5-next")


def adapter(name: str) -> Implementation:
    where = f"nemo_automodel.components.models.{name.replace('-', '_')}.layers"
    pytest.importorskip(where, reason="the extra `nemo-automodel` is not installed", exc_type=ImportError)
    return published.build(f"nemo-automodel-{name}")


def drawn(n: int, channels: int, *tokens: int) -> tuple[Tensor, Params]:
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(size, generator=generator) for size in ((*tokens, n, channels), (n * channels, 2 * n + n * n))]
    return draw[0], Params(draw[1] * 0.3, torch.linspace(-1, 1, 2 * n + n * n), torch.tensor([1.2, 0.7, 1.5]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tokens", [(), (3,), (2, 2)])
def test_mappings_are_the_reference(name: str, tokens: tuple[int, ...]) -> None:
    target = adapter(name).tuned(iterations=3, rms_eps=0.5)
    x, params = drawn(4, 5, *tokens)
    found, expected = target.mappings(x, params), mhc_ref.mappings(x, params, target.dialect)
    for which in target.emits:
        torch.testing.assert_close(getattr(found, which), getattr(expected, which), rtol=1e-5, atol=1e-6)


def test_a_stack_of_v41_reads_with_the_gates_of_the_block_before() -> None:
    target = adapter("deepseek-v41")
    layers = [drawn(4, 5, 3)[1], drawn(4, 5)[1]._replace(bias=torch.linspace(2, -2, 24))]
    h, branches = torch.linspace(-1, 1, 15).view(3, 5), [torch.sin, torch.cos]
    found = target.stack(h, layers, branches)
    torch.testing.assert_close(found, mhc_ref.stack(h, layers, branches, target.dialect), rtol=1e-5, atol=1e-5)
    assert (found - mhc_ref.stack(h, layers, branches, target.dialect.with_(read_from="own"))).abs().max() > 1e-2


def test_the_head_of_v4_is_the_reference() -> None:
    target = adapter("deepseek-v4")
    x, params = drawn(4, 5, 3)
    found = target.collapse(x, params)
    torch.testing.assert_close(found, mhc_ref.collapse(x, target.dialect, params), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="parameters are missing"):
        target.collapse(x)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("deepseek-v4", {"mappings", "collapse"}),
        ("deepseek-v41", {"mappings", "pre", "post"}),
        ("glm5-next", {"mappings"}),
    ],
)
def test_what_is_offered(name: str, own: set[str]) -> None:
    target = adapter(name)
    assert {method for method, how in offers(target).items() if how == "own"} == own
    with pytest.raises(Absent, match="below 1"):
        target.tuned(iterations=0)
    with pytest.raises(Absent, match="pre_eps"):
        target.tuned(pre_eps=0.5)
    with pytest.raises(ValueError, match="has no weight"):
        target.mappings(torch.ones(2, 3), drawn(2, 3)[1]._replace(norm_weight=torch.ones(6)))
