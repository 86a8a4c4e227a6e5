"""What a law says that it cannot see: deviations of the catalogue, on which it holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mhc_ref import PRESETS
from properties.catalogue import deviations
from properties.commands.kill_page import load
from properties.core.law import Law, all_laws
from properties.engine.runner import PROFILES, Subject, examine

CPU = torch.device("cpu")
CLAIMS = [(law, name) for law, one in all_laws().items() for name in one.blind]
KILLS = Path(__file__).parents[1] / "docs" / "kill.json"


def subjects(law: Law, name: str) -> list[Subject]:
    """The deviation in float32, in every preset for which the law says something of it here, and then in the dialects
    of deviations that no preset shows."""
    deviation = deviations.CATALOGUE[name]
    dialects = (*PRESETS.values(), *deviations.ELSEWHERE.values())
    made = [deviation.make(dialect) for dialect in dialects if deviation.applies(dialect)]
    found = [one for one in made if law.inapplicable(one, torch.float32, CPU) is None]
    return [Subject(f"deviation:{name}", one, torch.float32, CPU) for one in found]


@pytest.mark.slow
@pytest.mark.parametrize("law", sorted({law for law, _ in CLAIMS}))
def test_a_law_names_deviations_on_which_it_can_be_tried(law: str) -> None:
    for name in all_laws()[law].blind:
        assert name in deviations.CATALOGUE
        assert subjects(all_laws()[law], name), f"{law} does not apply to {name} in any preset"


@pytest.mark.one_in(4)
@pytest.mark.slow
@pytest.mark.parametrize(("law", "name"), CLAIMS)
def test_a_law_holds_on_the_deviations_that_it_says_it_cannot_see(law: str, name: str, tmp_path: Path) -> None:
    verdict = examine(all_laws()[law], subjects(all_laws()[law], name)[0], PROFILES["ci"], directory=tmp_path)
    assert verdict.status == "passed", verdict.message


def test_no_recorded_kill_contradicts_a_law() -> None:
    rows = load(KILLS)
    contradicted = [(law, name) for law, name in CLAIMS for row in rows if row.name == name and law in row.killed]
    assert rows
    assert not contradicted
