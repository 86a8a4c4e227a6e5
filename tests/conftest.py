"""Shapes are checked while testing, each worker computes on one thread, and thorough tests wait to be asked for."""

from __future__ import annotations

import jaxtyping
import pytest
import torch

with jaxtyping.install_import_hook(
    ["mhc_ref.block", "mhc_ref.stack", "mhc_ref.gain", "mhc_ref.projection"], "beartype.beartype"
):
    import mhc_ref.gain as gain

__all__ = ["gain"]


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    config.addinivalue_line("markers", "thorough: long; run it with -m thorough")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.markexpr:
        return
    thorough = [item for item in items if item.get_closest_marker("thorough")]
    items[:] = [item for item in items if not item.get_closest_marker("thorough")]
    config.hook.pytest_deselected(items=thorough)
