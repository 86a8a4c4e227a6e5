"""`explode target:` of an implementation that offers whole blocks or layers, and no projection."""

from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import mhc_ref
from mhc_ref import DEEPSEEK_V4, HYPER_CONNECTIONS, PAPER, PRESETS
from properties import Implementation, cli
from properties.explosion import find_minimal, replay, save
from properties.explosion.mixing import of_target
from properties.explosion.whole import applied

TARGETS = """
import torch
import mhc_ref
from mhc_ref import DEEPSEEK_V4, HYPER_CONNECTIONS, PAPER
from properties import Implementation

class Whole(Implementation):
    streams = (2, 3)
    def block(self, x, params, branch):
        return mhc_ref.block(x, params, branch, self.dialect)

class Layers(Implementation):
    streams = (2, 3)
    def layers(self, x, params, branches):
        for one, branch in zip(params, branches, strict=True):
            x = mhc_ref.block(x, one, branch, self.dialect)
        return x

def mixed(x, params, size=1.0):  # what a call takes is little, for a search makes many
    n = x.shape[-2]
    return size * params.bias[-n * n:].view(n, n).softmax(-1) @ x

class Once(Implementation):
    streams = (2,)
    def layers(self, x, params, branches):
        for one in params:
            x = mixed(x, one)
        return x

class Projected(Implementation):
    streams = (2,)
    def project(self, logits):
        return logits.softmax(-1)

class Turned(Whole):
    dialect = DEEPSEEK_V4

class Open(Implementation):
    dialect = HYPER_CONNECTIONS
    streams = (2,)
    def block(self, x, params, branch):
        return params.bias[-4:].view(2, 2).mT @ x

class Steady(Implementation):
    streams = (2,)
    def block(self, x, params, branch):
        return mixed(x, params)

class Grows(Steady):
    def block(self, x, params, branch):
        return mixed(x, params, 1.5)

class Coarse(Whole):
    channel_multiple = 8
    def block(self, x, params, branch):
        assert x.shape[-1] % 8 == 0
        return super().block(x, params, branch)

class Narrow(Whole):
    def block(self, x, params, branch):
        return super().block(x, params, branch)[..., 0]

class Ends(Implementation):
    def stack(self, h, params, branches):
        return h
"""


@pytest.fixture
def target(tmp_path):
    (tmp_path / "whole.py").write_text(TARGETS)
    return lambda name: f"target:{tmp_path}/whole.py:{name}"


class Block(Implementation):
    def block(self, x, params, branch):
        return mhc_ref.block(x, params, branch, self.dialect)


@pytest.mark.parametrize("dialect", [PAPER, DEEPSEEK_V4, HYPER_CONNECTIONS, PRESETS["MHC_LITE"], PRESETS["LUCIDRAINS"]])
def test_what_a_block_applies_is_what_the_projection_gives(dialect):
    whole = Block()
    whole.dialect = dialect
    size = mhc_ref.packing.logits_shape(3, dialect)
    logits = torch.randn(2, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    emitted = mhc_ref.project(logits, dialect)
    expected = emitted.mT if dialect.transposed else emitted
    torch.testing.assert_close(applied(whole, logits, torch.float64), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "known"),
    [("Whole", "ref:PAPER"), ("Layers", "ref:PAPER"), ("Coarse", "ref:PAPER"), ("Turned", "ref:DEEPSEEK_V4")],
)
def test_blocks_and_layers_apply_what_the_search_sees(target, name, known):
    mixing = of_target(target(name).removeprefix("target:"), "")
    logits = 3 * torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(mixing.operators(logits), of_target(known, "").operators(logits))
    assert mixing.accepted(8) == [2, 3]


@pytest.mark.slow
def test_layers_are_searched_as_a_projection_is(target):
    options: dict[str, Any] = {"gain": "backward", "max_depth": 1, "max_streams": 2, "budget": 600}
    known, found = (find_minimal(target(name), "1.2", **options) for name in ("Projected", "Once"))
    assert (found.depth, found.streams, found.minimality) == (known.depth, known.streams, "searched")
    assert found.exact_value == known.exact_value
    assert "its matrices are what its blocks make of one stream at a time" in found.proof


def test_an_unconstrained_block_is_searched_within_its_bound(target):
    found = find_minimal(target("Open"), "4", entry_bound="1.5", max_streams=2, budget=600)
    assert (found.depth, found.streams) == (2, 2)  # 2 * 1.5 in one sub-layer, and 9 in two
    assert 4 <= float(found.exact_value or 0) <= 9


def test_a_block_that_grows_is_found_and_replays(target, tmp_path):
    found = find_minimal(target("Grows"), "3.3", max_streams=2, budget=600)
    assert (found.found, found.depth) == (True, 3)
    path = tmp_path / "x.safetensors"
    save(found, path)
    assert replay(path, target=target("Grows").removeprefix("target:")).verdict == "FAILED"
    assert replay(path, target=target("Steady").removeprefix("target:")).verdict == "FIXED"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Ends", "offers no projection of logits, no block and no layers, one of which the search needs"),
        ("Narrow", "a block returned (2,) for a state (2, 2); expected a state of that shape"),
    ],
)
def test_what_cannot_be_searched_is_said(target, name, words):
    done = CliRunner().invoke(cli.app, ["explode", target(name), "--threshold", "2"])
    assert done.exit_code == 2
    assert words in " ".join(done.stderr.split())


def test_a_projection_is_asked_where_there_is_one():
    assert of_target("ref:PAPER", "").words == ""
