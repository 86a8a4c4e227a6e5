"""Explosions in somebody's model: blocks are found, inputs searched, and what is answered is true of the model."""

import json
import math
from collections.abc import Generator

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from properties import cli
from properties.explosion import ExplosionFileError, draw, find_minimal, load, replay, save
from properties.explosion.models.fewest import MOST, affordable, fewest, proves, smaller
from properties.explosion.models.finding import found
from properties.explosion.models.gains import Meter, grown
from properties.explosion.models.inputs import Kind, kind_of
from properties.explosion.models.running import runner_of
from properties.explosion.questions import models as questions
from properties.explosion.searches.hypothesise import BudgetSpent
from properties.targets.target import TargetError


@pytest.fixture(autouse=True)
def seeded() -> Generator[None]:
    """The weights of the models here are drawn, and are the same in every run."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


MODELS = '''
import torch
from torch import nn


class Residual(nn.Module):
    """x + W relu(V x), W multiplied by a gain."""

    def __init__(self, width, gain):
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        with torch.no_grad():
            self.down.weight *= gain
            self.down.bias *= 0

    def forward(self, x):
        return x + self.down(self.up(x).relu())


def stack(gains, width=8):
    return nn.Sequential(nn.Linear(width, width), *[Residual(width, one) for one in gains], nn.Linear(width, 3))


def bad():
    return stack([0.02] * 6 + [60.0] + [0.02] * 3)


def mended():
    return stack([0.02] * 10)


def shorter():
    return stack([0.02] * 6 + [60.0])


def pair():
    return stack([0.02, 12.0, 0.02, 12.0, 0.02])


def steep():
    return stack([40.0] * 6)


def seeded(seed):
    return stack([60.0 if seed % 2 else 0.01] * 3)


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(12, 8)
        self.blocks = nn.ModuleList([Residual(8, 0.02), Residual(8, 30.0)])

    def forward(self, ids):
        x = self.table(ids)
        for block in self.blocks:
            x = block(x)
        return x


class Image(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return x + self.inner(x)


class Raises(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        raise RuntimeError("no such day")


class Noisy(Residual):
    def __init__(self):
        super().__init__(8, 30.0)

    def forward(self, x):
        return x + torch.rand(()) * self.down(self.up(x).relu())


def between():
    """What grows lies between the blocks."""
    return nn.Sequential(nn.Linear(8, 8), Residual(8, 0.02), nn.Softplus(beta=0.01), Residual(8, 0.02))


def plain():
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))


def broken():
    made = mended()
    with torch.no_grad():
        made[2].up.weight[0, 0] = float("nan")
    return made


def needs(width):
    return stack([1.0], width)


number = 5
one = bad()
'''


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / "mine.py"
    place.write_text(MODELS)
    return f"model:{place}:"


def invoked(*arguments):
    return CliRunner().invoke(cli.app, ["explode", *map(str, arguments)])


def test_the_one_bad_block_of_ten_is_found_and_it_alone(models, tmp_path, monkeypatch):
    path = tmp_path / "bad.safetensors"
    done = invoked(f"{models}bad", "--threshold", 8, "--max-tokens", 2, "--json", "--save", path)
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert (answer["blocks"], answer["depth"], answer["minimality"]) == ([7], 1, "proved")
    assert answer["value"] >= 8
    assert answer["input"]["shape"] == [1, 8]
    assert all(entry[-1] in (-1, 1) for entry in answer["input"]["entries"])
    assert "in a test: from properties.explosion import replay; assert replay(" in done.stderr
    target = f"{models}bad".removeprefix("model:")
    assert replay(path, target=target).verdict == "FAILED"
    assert replay(path, target=target.replace(":bad", ":mended")).verdict == "FIXED"
    assert "block 7 of 10, one token" in load(path).to_text()
    with pytest.raises(ExplosionFileError, match="nothing that it names is run unasked"):
        replay(path)
    assert replay(path, trust=True).verdict == "FAILED"
    with pytest.raises(
        ExplosionFileError, match="the file is about a model with the blocks 1, 2, 3, 4, 5, 6 and 4 more"
    ):
        replay(path, target=target.replace(":bad", ":shorter"))
    with pytest.raises(ExplosionFileError, match="have no effect on a model"):
        replay(path, target=target, isolate=True)

    def spent(*_: object) -> None:
        raise BudgetSpent

    monkeypatch.setattr(questions, "again", spent)
    with pytest.raises(TargetError, match="not run again within the 60 seconds"):
        replay(path, target=target)


@pytest.mark.slow
def test_what_is_told_is_true_of_the_model_by_hand(models):
    """The blocks that are kept, run alone from the Linear on, grow as much as is said."""
    answer = find_minimal(f"{models}pair", 20)
    assert answer.to_json()["blocks"] == [2, 4]
    found = answer.configuration
    model = answer.request.recipe.build("float64")
    with torch.no_grad():
        entered = model[0](found.input[None])
        x = model[4](model[2](entered))
        largest = max(model[2](entered).abs().max().item(), x.abs().max().item())
    floor = max(entered.abs().max().item(), found.floor)
    assert answer.value == pytest.approx(largest / floor)
    assert "blocks 2 and 4 of 5, one token" in answer.to_text()


@pytest.mark.slow
def test_without_a_threshold_half_of_what_the_whole_reaches_is_asked(models):
    answer = find_minimal(f"{models}bad")
    assert answer.to_json()["blocks"] == [7]
    assert answer.value is not None
    assert 10 / 2 <= answer.threshold <= answer.value
    assert "half of what the whole model reaches" in answer.to_text()
    calm = find_minimal(f"{models}mended", max_tokens=1)
    assert not calm.found
    assert not calm.impossible
    assert calm.threshold == 10
    assert "not found\n" in calm.to_text()
    assert calm.to_json()["random"] is None


def test_a_search_that_is_stopped_keeps_the_best_so_far(models, monkeypatch):
    from properties.explosion.models import hunting

    def spent(*_: object) -> None:
        raise BudgetSpent

    monkeypatch.setattr(hunting, "fewest", spent)
    answer = find_minimal(f"{models}bad", 8, max_tokens=1)
    assert (answer.found, answer.stopped, answer.depth) == (True, "budget", 10)
    assert answer.request.reached(answer.configuration)


def test_a_picture_has_both_curves_and_a_page_too(models, tmp_path):
    answer = find_minimal(f"{models}bad", 8, max_tokens=1)
    draw(answer, tmp_path / "x.html")
    assert "Block by block" in (tmp_path / "x.html").read_text()
    pytest.importorskip("matplotlib")
    draw(answer, tmp_path / "x.svg")
    assert (tmp_path / "x.svg").read_text().count("<path") > 20


def test_token_ids_are_searched(models):
    answer = find_minimal(f"{models}Language", 6)
    told = answer.to_json()
    assert told["input"]["kind"] == "ids"
    assert told["blocks"] == [1]
    assert answer.value is not None
    assert answer.value >= 6
    assert answer.entries == 1


def test_what_lies_between_the_blocks_is_not_blamed_on_them(models):
    answer = find_minimal(f"{models}between", 3)
    assert answer.to_json()["blocks"] == []
    assert answer.depth == 0
    assert answer.proof == "No block is needed: what lies between them does it."


@pytest.mark.slow
def test_overflow_names_the_blocks_and_the_dtype(models):
    answer = find_minimal(f"{models}steep", gain="nonfinite", dtype="float16")
    assert answer.found
    assert answer.value == math.inf
    assert answer.to_json()["value"] is None
    assert "something that float16 cannot hold" in answer.to_text()
    wide = find_minimal(f"{models}steep", gain="nonfinite", dtype="float32", max_tokens=1)
    assert not wide.found
    assert "of the largest number of float32" in wide.proof


def test_a_weight_that_is_not_finite_is_an_explosion_in_its_block(models, tmp_path):
    answer = find_minimal(f"{models}broken", 100)
    assert answer.to_json()["blocks"] == [2]
    kept = save(answer, tmp_path / "nan.safetensors")
    assert load(tmp_path / "nan.safetensors").value == math.inf
    assert kept.to_json()["value"] is None


@pytest.mark.slow
def test_initialisations_are_counted(models):
    answer = find_minimal(f"{models}seeded", 8, seeds=4)
    assert answer.to_json()["seeds"] == {"tried": 4, "exploding": 2}
    assert answer.request.seed == 1
    assert "2 of 4 initialisations explode" in answer.to_text()
    assert "None of 3 initialisations explodes" in find_minimal(f"{models}mended", 8, seeds=3).proof


@pytest.mark.slow
def test_weights_are_read_from_a_checkpoint(models, tmp_path):
    from safetensors.torch import save_file

    bad = find_minimal(f"{models}bad", 8, max_tokens=1).request.recipe.build()
    save_file(bad.state_dict(), tmp_path / "w.safetensors")
    answer = find_minimal(f"{models}mended", 8, checkpoint=str(tmp_path / "w.safetensors"), max_tokens=1)
    assert answer.to_json()["blocks"] == [7]
    state = bad.state_dict()
    state.pop("3.up.bias")
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(ValueError, match=r"lacks 3\.up\.bias"):
        find_minimal(f"{models}mended", 8, checkpoint=str(tmp_path / "less.safetensors"))
    with pytest.raises(ValueError, match="there is no such file"):
        find_minimal(f"{models}mended", 8, checkpoint=str(tmp_path / "none"))


def test_inputs_of_one_shape_have_no_tokens(models):
    answer = find_minimal(f"{models}Image", 1.3, input="states:3x5x5")
    assert answer.found
    assert answer.to_json()["input"]["shape"] == [1, 3, 5, 5]
    assert "token," not in answer.to_text()
    assert answer.to_json()["blocks"] == ["(the model)"]


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("", [], "expected model:path/to/file.py:attr"),
        ("needs", [], "needs width to be called"),
        ("number", [], "is int; expected a torch.nn.Module"),
        ("nothing", [], "has no attribute 'nothing'"),
        ("plain", [], "no residual block was found in Sequential"),
        ("Image", [], "has no Embedding and no Linear"),
        ("Raises", [], "the model raised RuntimeError: no such day for an input float"),
        ("bad", ["--input", "ids:7"], "expected a model that takes ids:7"),
        ("bad", ["--input", "words"], "input is 'words'; expected ids:VOCABULARY"),
        ("bad", ["--input", "states:0"], "expected one vocabulary, or a shape"),
        ("bad", ["--blocks", "layers.*"], "blocks is 'layers.*', which no module is called"),
        ("bad", ["--blocks", "7.*"], "none of it was called with a tensor"),
        ("bad", ["--blocks", "1,1.*"], "none of it was called"),
        ("bad", ["--gain", "backward"], "expected activation, forward, gradient, nonfinite for a model"),
        ("bad", ["--gain", "forward"], "no hyper-connection"),
        ("bad", ["--max-depth", "3"], "model has the blocks that it has"),
        ("bad", ["--direction", "vanish"], "model is searched for what explodes"),
        ("one", ["--seeds", "3"], "has one set of weights"),
        ("Noisy", ["--threshold", "2"], "deterministic in evaluation"),
    ],
)
def test_what_cannot_be_asked_ends_in_one_sentence(models, model, options, message):
    done = invoked(f"{models}{model}" if model else "model:", *options)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output


def test_a_target_that_is_no_place_of_code_is_no_model():
    with pytest.raises(TargetError, match="ref:PAPER is no model"):
        find_minimal("model:ref:PAPER")


# ---- blocks


class Scaled(nn.Module):
    """A gate, and no residual block: what is left without its weights is half of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 6)

    def forward(self, x):
        return x * self.gate(x).sigmoid()


class Layer(nn.Module):
    def __init__(self, place: str) -> None:
        super().__init__()
        self.norm, self.inner, self.place = nn.LayerNorm(6), nn.Sequential(nn.Linear(6, 6), Scaled()), place

    def forward(self, x, mask=None):
        if self.place == "pre":
            return x + self.inner(self.norm(x)), "more"
        if self.place == "post":
            return (self.norm(x + self.inner(x)), "more")
        return [x + self.norm(self.inner(x)), "more"]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.layers = nn.ModuleList([Layer("pre"), Layer("post"), Layer("output")])
        self.last = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6))

    def forward(self, h):
        x = self.first(h)
        for layer in self.layers:
            x = layer(x, mask=torch.ones(1))[0]
        return self.last(x)


def test_blocks_are_what_returns_its_input_without_weights():
    model = Model().eval()
    blocks = found(model, lambda: model(torch.randn(2, 3, 6)))
    assert [one.name for one in blocks] == ["layers.0", "layers.1", "layers.2"]
    said = found(model, lambda: model(torch.randn(2, 3, 6)), "layers.[02]")
    assert [one.name for one in said] == ["layers.0", "layers.2"]
    with pytest.raises(ValueError, match="expected modules beside each other"):
        found(model, lambda: model(torch.randn(2, 3, 6)), "layers.0,layers.0.inner")


def test_a_block_that_is_left_out_returns_its_input():
    model = Model().double().eval()
    runner = runner_of(model, "mine", kind_of(model, "", 1.0), 3, "")
    inputs = runner.kind.random(2, 3, torch.Generator().manual_seed(1))
    with torch.no_grad():
        x = model.first(inputs)
        expected = model.layers[2](model.layers[0](x)[0])[0]
        passed = runner.passed(inputs, frozenset({0, 2}))
    torch.testing.assert_close(passed.states[2], expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(passed.states[1], passed.states[0], rtol=0, atol=0)
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())


def test_the_gain_of_gradients_is_the_largest_singular_value_of_the_jacobian():
    model = Model().double().eval()
    runner = runner_of(model, "mine", kind_of(model, "", 1.0), 2, "")
    inputs = runner.kind.random(3, 2, torch.Generator().manual_seed(2))
    gains = Meter(runner, "gradient", "float64")(inputs, runner.every)

    def blocks(x):
        for layer in model.layers:
            x = layer(x)[0]
        return x

    for one, gain in zip(inputs, gains.tolist(), strict=True):
        jacobian = torch.autograd.functional.jacobian(blocks, model.first(one)).reshape(12, 12)
        exact = torch.linalg.matrix_norm(jacobian, 2).item()
        assert exact * 0.9 <= gain <= exact * (1 + 1e-6)


def test_inputs_of_a_batch_are_kept_apart_also_where_tokens_come_first():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)
    for first in (False, True):
        layer.self_attn.batch_first = first
        model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double().eval()
        runner = runner_of(model, "mine", Kind(0, (8,), 1.0), 3, "")
        assert runner.words == ("[batch, tokens, width]" if first else "[tokens, batch, width]")
        inputs = runner.kind.random(4, 3, torch.Generator().manual_seed(3))
        meter = Meter(runner, "activation", "float64")
        alone = torch.cat([meter(one[None], runner.every) for one in inputs])
        torch.testing.assert_close(meter(inputs, runner.every), alone, rtol=1e-9, atol=0)


# ---- fewest


@pytest.mark.parametrize("count", [1, 3, 8, 11, 40])
def test_delta_debugging_leaves_what_is_needed(count):
    generator = torch.Generator().manual_seed(count)
    for size in range(min(count, 5) + 1):
        needed = frozenset(torch.randperm(count, generator=generator)[:size].tolist())
        kept = fewest(count, needed.issubset)
        assert kept == needed
        assert smaller(count, kept, needed.issubset) is None
        assert proves(count, kept) == (size - 1 <= affordable(count))


def test_of_eight_blocks_all_sets_are_tried():
    tried = []
    fewest(8, lambda some: tried.append(some) or False)
    assert len(set(tried)) == len(tried) == MOST == 2**8
    assert affordable(9) == 4


def test_gains_have_words():
    assert grown("activation", "float64", 1400, 5.6) == "activations grow 1.4e3 times; random inputs 5.6"
    assert grown("gradient", "float64", 140, 0.01) == "gradients grow 140 times; random inputs 0.01"
    assert "reach what is not finite in float16; random inputs 0.5 of" in grown("nonfinite", "float16", math.inf, 0.5)


# ---- models of others

OTHERS = """
import torch
from torch import nn

def encoder():
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32), 2, enable_nested_tensor=False)

def x_transformers():
    from x_transformers import Encoder
    return Encoder(dim=16, depth=1, heads=2, num_residual_streams=4)

def deepseek():
    from transformers.models.deepseek_v4 import DeepseekV4Config
    from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4Model
    return DeepseekV4Model(DeepseekV4Config(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, head_dim=16, n_routed_experts=4,
        num_experts_per_tok=2, moe_intermediate_size=32,
    ))
"""


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / "others.py"
    place.write_text(OTHERS)
    return f"model:{place}:"


@pytest.mark.slow
def test_an_encoder_of_torch_is_normalised_so_that_activations_stay(others):
    assert not find_minimal(f"{others}encoder", 5, max_tokens=2).found
    answer = find_minimal(f"{others}encoder", 1.2, gain="gradient", max_tokens=1)
    assert answer.found
    assert answer.to_json()["blocks"] in ([0], [1])


@pytest.mark.slow
def test_an_encoder_of_x_transformers_with_four_streams_multiplies_by_four_at_each_sub_layer(others):
    """2.31.10 mixes by a matrix of ones (docs/findings.md), so that every input grows."""
    pytest.importorskip("x_transformers")
    mixing = find_minimal(f"{others}x_transformers", 12, gain="forward", max_tokens=1)
    assert (mixing.depth, mixing.value) == (2, pytest.approx(16))
    answer = find_minimal(f"{others}x_transformers", 12, max_tokens=1)
    assert (answer.depth, answer.streams) == (2, 4)
    assert answer.to_json()["random"] > 12
    assert answer.entries == 1


@pytest.mark.slow
def test_a_deepseek_v4_of_transformers_stays_within_its_caps(others):
    pytest.importorskip("transformers")
    answer = find_minimal(f"{others}deepseek", "1.01", gain="forward", max_tokens=2)
    assert not answer.found
    assert "declare keeps it at 1 at most, at every depth" in answer.proof
    assert not find_minimal(f"{others}deepseek", 30, max_tokens=2).found
