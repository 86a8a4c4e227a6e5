"""What is declared stands in one table: a limit that is added there is checked, crosses processes, and reaches whoever
draws examples or asks questions."""

from __future__ import annotations

import json
import re
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import LIGER, PAPER, Dialect, Params, registry
from properties.core.case import Case, streams_of
from properties.core.declaration import TABLE, Declaration, DeclarationError, Declared
from properties.core.family import Mix
from properties.core.fields import Count, Flag, Fraction, Unfit, fits, wanted
from properties.core.implementation import Implementation, Reference
from properties.core.law import all_laws
from properties.core.settling import settle
from properties.core.several import Dtypes
from properties.diagnosis.view import Frame
from properties.engine.runner import Subject
from properties.strategies import Setting
from properties.targets.arrays import from_arrays
from properties.targets.process import schema
from properties.targets.process.description import attributes_of, declare, declared
from properties.targets.process.protocol import BadAnswer
from properties.targets.process.server import description
from properties.targets.target import TargetError, resolve


class Mine(Implementation):
    def project(self, logits: Tensor) -> Tensor:
        return mhc_ref.project(logits, self.dialect)


@pytest.fixture
def tile(monkeypatch: pytest.MonkeyPatch) -> str:
    """A limit that no file of the suite knows."""
    monkeypatch.setitem(TABLE, "tile", Count("tokens come in tiles of so many", 64))
    monkeypatch.setattr(Declared, "tile", 1, raising=False)
    return "tile"


# -- a limit is a line of the table -----------------------------------------------------------------------------------


def test_a_limit_of_the_table_is_checked_where_a_target_is_found(tile: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "import numpy as np\n"
        "from properties import Reference\n"
        "class Wrong(Reference):\n    tile = 0\n"
        "class Right(Reference):\n    tile = np.int64(8)\n"
    )
    with pytest.raises(
        TargetError, match=r"Wrong: \.tile is 0; expected an integer of 1 or more: tokens come in tiles"
    ):
        resolve(f"{mine}:Wrong")
    assert type(getattr(resolve(f"{mine}:Right"), tile)) is int


def test_a_limit_of_the_table_may_be_given_to_an_adapter(tile: str) -> None:
    made = from_arrays("numpy", dialect=PAPER, project=lambda logits: logits, tile=4)
    assert getattr(made, tile) == 4
    with pytest.raises(ValueError, match=r"from_arrays: \.tile is 'four'"):
        from_arrays("numpy", dialect=PAPER, project=lambda logits: logits, tile="four")


def test_a_limit_of_the_table_crosses_in_the_protocol(tile: str) -> None:
    mine = Mine()
    vars(mine)[tile] = 8
    described = json.loads(json.dumps(description(mine)))
    assert described[tile] == 8
    assert attributes_of(described)[tile] == 8
    with pytest.raises(BadAnswer, match="describe: tile is 65; expected an integer from 1 to 64"):
        attributes_of(described | {tile: 65})
    said = schema.description()["properties"][tile]
    assert said["description"] == "tokens come in tiles of so many; 1 if left out"
    assert fits(8, said)
    assert not fits(65, said)


def test_a_limit_of_the_table_crosses_to_a_worker_and_back(tile: str) -> None:
    mine, proxy = Mine(), Mine()
    vars(mine)[tile] = 8
    declare(proxy, json.loads(json.dumps(declared(mine))))
    assert getattr(proxy, tile) == 8


def test_a_limit_of_the_table_reaches_strategies_and_diagnosis(tile: str) -> None:
    mine = Mine()
    vars(mine)[tile] = 8
    subject = Subject("mine", mine, torch.float32, torch.device("cpu"))
    setting = subject.setting(all_laws()["manifold.agrees-with-oracle"])
    assert isinstance(setting, Setting)
    assert getattr(setting, tile) == getattr(Frame.of(mine), tile) == 8
    assert setting != setting.with_(tile=4)


def test_no_other_file_lists_what_may_be_declared() -> None:
    """A premise of laws is a line for each flag that a law asks for; apart from these, a list is somebody's copy."""
    package = Path(schema.__file__).parents[2]
    limits = {name for name, field in TABLE.items() if isinstance(field, (Flag, Count, Fraction))}
    written = {path: set(re.findall(r"\w+", path.read_text())) for path in package.rglob("*.py")}
    listing = {path.relative_to(package).as_posix() for path, words in written.items() if len(words & limits) > 8}
    assert listing == {"core/declaration.py", "core/premises.py"}


# -- a declaration ----------------------------------------------------------------------------------------------------


def test_a_declaration_says_what_an_implementation_says() -> None:
    reference = Reference(LIGER)
    found = Declaration.of(reference)
    assert {name: getattr(found, name) for name in TABLE} == {name: getattr(reference, name) for name in TABLE}
    assert found == Declaration.of(Reference(LIGER)) == settle(reference)
    assert hash(found) == hash(Declaration.of(Reference(LIGER)))
    assert found != found.with_(max_tokens=3)
    assert found != Declaration.of(Reference(PAPER))


def test_a_declaration_does_not_change() -> None:
    found = Declaration.of(Mine())
    with pytest.raises(FrozenInstanceError, match="max_tokens"):
        found.max_tokens = 3
    assert "max_tokens" not in repr(found)
    assert "max_tokens=3" in repr(found.with_(max_tokens=3))


def test_a_declaration_is_what_its_annotations_say_whatever_was_written() -> None:
    mine: Any = Mine()
    mine.streams, mine.dtypes, mine.least_scale = np.array([4, 2, 4]), ["double", torch.float32], np.float32(0.5)
    found = Declaration.of(mine)
    assert (found.streams, found.dtypes, found.least_scale) == ((4, 2), (torch.float64, torch.float32), 0.5)
    assert isinstance(mine.dtypes, list)  # which `settle` writes down
    settle(mine)
    assert (mine.streams, mine.dtypes) == ((4, 2), (torch.float64, torch.float32))


def test_what_is_right_by_itself_and_wrong_together_is_refused() -> None:
    mine = Mine()
    mine.streams, mine.channel_multiple = (8,), 2**20
    with pytest.raises(DeclarationError, match=r"\.channel_multiple is 1048576, for n = 8: phi would have"):
        Declaration.of(mine)


class EvenOnly(Mix):
    """Logits come as n/2 blocks [2, n]; there is none for an odd n."""

    name = "even_only"

    def shape(self, n: int, dialect: Dialect) -> tuple[int, ...]:
        if n % 2:
            raise ValueError(f"n is {n}; expected an even number of streams")
        return (n // 2, 2, n)

    def project(self, logits: Tensor, dialect: Dialect) -> Tensor:
        return logits.flatten(-3, -2)


@pytest.fixture
def even(monkeypatch: pytest.MonkeyPatch) -> Dialect:
    monkeypatch.setattr(registry, "_outside", {})
    return Dialect(residual=EvenOnly())


def test_streams_that_a_mix_is_not_for_are_refused_in_its_words(even: Dialect) -> None:
    mine = Mine()
    mine.dialect = even
    with pytest.raises(
        DeclarationError, match=r"\.streams names 1; residual='even_only': n is 1; expected an even number"
    ):
        Declaration.of(mine)
    mine.streams = (2, 4)
    assert Declaration.of(mine).streams == Reference(even).streams[:2] == (2, 4)


def test_logits_of_any_shape_reach_a_projection_that_is_derived(even: Dialect) -> None:
    class Whole(Implementation):
        dialect = even
        streams = (2, 4)

        def mappings(self, x: Tensor, params: Params) -> Any:
            return mhc_ref.mappings(x, params, even)

    logits = torch.arange(48.0).reshape(3, 2, 2, 4)
    assert torch.equal(Whole().project(logits), logits.reshape(3, 4, 4))
    assert streams_of(Case(logits=logits), even) == 4
    assert streams_of(Case(logits=torch.zeros(3, 5, 5)), even) is None
    assert (
        from_arrays("numpy", dialect=even, streams=(2, 4), project=lambda z: z.reshape(3, 4, 4))
        .project(logits)
        .tolist()
        == logits.reshape(3, 4, 4).tolist()
    )


def test_help_says_what_may_be_declared() -> None:
    assert Implementation.__doc__ is not None
    for name, field in TABLE.items():
        assert f" {name}: {field.words.split()[0]}" in Implementation.__doc__


# -- kinds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLE)
def test_what_a_field_tells_is_what_another_process_takes(name: str) -> None:
    field, value = TABLE[name], getattr(Reference(LIGER), name)
    assert field.taken(json.loads(json.dumps(field.told(value)))) == value


class Tempered(Mix):
    name = "tempered"
    FIELDS = {"tau": registry.Field(1.0, lambda tau: tau > 0, "above 0")}  # noqa: RUF012

    def project(self, logits: Tensor, dialect: Dialect) -> Tensor:
        return (logits / dialect.tau).softmax(-1)


def test_fields_that_a_family_brings_cross_with_the_dialect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_outside", {})
    kind, dialect = TABLE["dialect"], Dialect(residual=Tempered(), tau=0.5)
    told = json.loads(json.dumps(kind.told(dialect)))
    assert told["tau"] == 0.5
    assert kind.taken(told) == kind.read(told) == dialect
    for wrong in ({"own": {"tau": 2}}, {"heat": 3}, told | {"heat": 3}):
        with pytest.raises(Unfit, match=r"^: Dialect has no field '(own|heat)'"):
            kind.read(wrong)
    with pytest.raises(Unfit, match=r"^: Dialect.tau is -1; expected above 0"):
        kind.read(told | {"tau": -1})


@pytest.mark.parametrize("name", [name for name, field in TABLE.items() if field.served])
def test_what_a_field_tells_fits_its_schema(name: str) -> None:
    field, value = TABLE[name], getattr(Reference(LIGER), name)
    assert field.read(json.loads(json.dumps(field.told(value)))) == value


def test_dtypes_stay_as_they_were_written_where_they_are_a_tuple() -> None:
    dtypes = TABLE["dtypes"]
    assert isinstance(dtypes, Dtypes)
    assert dtypes.kept(("float32", "double"), dtypes.settled(("float32", "double")))
    assert not dtypes.kept(("float", "float32"), dtypes.settled(("float", "float32")))
    assert dtypes.verified(()) == ()
    with pytest.raises(Unfit, match="is empty"):
        dtypes.settled(())


def test_a_schema_says_what_it_wants() -> None:
    said = {name: wanted(field.schema()) for name, field in TABLE.items() if field.served and name != "dialect"}
    assert said["streams"] == "a list of integers from 1 to 64"
    assert said["emits"] == "a list of some of pre, post, res"
    assert said["least_scale"] == "a number from 0 to 1"
    assert said["zero_tokens"] == "true or false"
    assert said["name"] == "a string of at most 200 printable characters"
