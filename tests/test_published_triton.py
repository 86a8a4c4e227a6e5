"""Triton kernels are compiled where there is a GPU, unless somebody asks for the interpreter, and say where."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator

import pytest
import torch

from properties.targets.published import triton


@pytest.fixture(autouse=True)
def reloaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield
    monkeypatch.undo()
    importlib.reload(triton)


@pytest.mark.parametrize(
    ("cuda", "asked", "devices"), [(True, None, ("cuda",)), (True, "1", ("cpu",)), (False, None, ("cpu",))]
)
def test_kernels_run_where_they_can(
    cuda: bool, asked: str | None, devices: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    if asked:
        monkeypatch.setenv("TRITON_INTERPRET", asked)
    importlib.reload(triton)
    assert devices == triton.DEVICES
    assert triton.most_tokens(2) == (triton.ANY if devices == ("cuda",) else 2)
    with monkeypatch.context():
        triton.prepare()
        assert os.environ.get("TRITON_INTERPRET") == (None if devices == ("cuda",) else "1")
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
