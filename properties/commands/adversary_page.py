"""The adversary's rates and survivors as they are kept (adversary.json), and what they come to (adversary.md)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from properties.guards.whole import write_whole

if TYPE_CHECKING:
    from properties.catalogue.mutants import Spec
    from properties.commands.adversary_rows import Results

SCHEMA = 1
"""The number of the form of adversary.json: {schema, runs, survivors}."""

REASONS = {
    "a window of": "no example has a size in that window",
    "a threshold of": "no example is as large",
    "a congruence of": "no example that gets so far has a size of that residue, or none with another answer",
    "a tail of": "no example has a tail behind so large a group",
    "a large logit": "no example of that stage has a logit so far out",
    "a large state": "no example has a state that large",
    "a small state": "no example has a state that small beside what would show it",
    "inference mode": "laws call without gradients, seldom in inference mode",
    "compiled": "on a CPU nothing is compiled in the default profile",
    "two": "two conditions at once, which no example meets together; one of them often comes with few tokens alone",
    "a gradient underflows": "cotangents far below 1 come with few tokens, and a sum over tokens hides them",
    "a gradient rounded": "the bounds of gradients through several layers, or in bfloat16, are above the rounding",
    "a gradient": "the cotangents, or the tokens, at which it shows are not drawn",
    "detached": "its values are right, and no example that meets it asks for that gradient",
    "the first call": "the first call of every stage has few tokens, in every check",
    "streams of two scales": "states of two scales come with few tokens, or not to whole stacks",
    "scaled": "the factor is near 1: the examples that reach it have bounds above it",
    "rounded": "the examples that reach it have bounds above the rounding",
    "shifted": "the examples that reach it have bounds above the shift",
    "clamped": "the examples that reach it have no value beyond the limit",
    "that of an earlier": "the examples that reach it call once, or with the same values",
    "an output buffer": "no law holds an output for so many calls of one shape",
    "an argument": "no law looks at what was given after such a call",
}
"""Why a class survives, by what its name begins with; the first that fits.

Of nine mutants with two conditions that no example met, five had each of them met apart, by laws without sweeps; of the
other four one condition was not met in the part of the output that is wrong: a first call, a tiny or a negative state
with many tokens, and n C from 28673 on, which sweeps alone go to.
"""


def kind_of(spec: Spec, tried: Mapping[str, Any]) -> str:
    """The class of a survivor by its attempt: what is not met, what was not made there, or what is not shown."""
    if tried["reached"] and not tried["fired"]:
        return "not made where it is met: " + " and ".join(sorted(one.kind for one in spec.conditions))
    if not tried["reached"]:
        if len(spec.conditions) == 1:
            return f"not met: {spec.sorts[0]}"
        return "not met: two at once, " + " and ".join(sorted(one.kind for one in spec.conditions))
    if not tried["ratio"]:
        return "met, nothing moved: " + " and ".join(sorted(one.kind for one in spec.conditions))
    return f"met, not shown: {spec.slip.sort}"


def reason_of(kind: str) -> str:
    """Why a class survives."""
    met, _, name = kind.partition(": ")
    if met.startswith("not made"):
        return "the examples that meet the rest are few, and chance, or what calls before left, did not come there"
    if met.endswith("moved"):
        return "the examples that meet it hold zeros, or values that are equal, and the slip leaves them as they are"
    other = "no example meets it" if met == "not met" else "where examples meet it, it moves nothing beyond the bound"
    return next((why for start, why in REASONS.items() if name.startswith(start)), other)


def rates(specs: Sequence[Spec], results: Results) -> dict[str, Any]:
    """What a run came to: numbers, the survivors by class, and what went wrong in the harness."""
    tried, confirmed, grounds = results.of("attempt"), results.of("confirmation"), results.of("ground")
    done = [one for one in specs if tried.get(one.target, {}).get("killed") or one.target in confirmed]
    killed = [one for one in done if tried[one.target]["killed"]]
    status = {one.target: confirmed.get(one.target, {}).get("status") for one in done}
    alive = [one for one in done if not tried[one.target]["killed"] and status[one.target] == "wrong"]
    equivalent = [one for one in done if one not in killed and one not in alive]
    wrong = len(killed) + len(alive)
    kinds: dict[str, list[int]] = {}
    for one in (*killed, *alive):
        for kind in sorted({condition.kind for condition in one.conditions}):
            seen, every = kinds.get(kind, [0, 0])
            kinds[kind] = [seen + (one in killed), every + 1]
    harness = [f"{name}: {text}" for name, one in grounds.items() for text in one["wrong"]]
    harness += [f"{name}: {text}" for name, one in tried.items() for text in one["errors"]]
    survivors = [
        {"target": one.target, "text": one.text, "class": kind_of(one, tried[one.target])}
        | {name: tried[one.target][name] for name in ("examples", "fired", "ratio")}
        for one in alive
    ]
    return {
        "seed": specs[0].seed if specs else 0,
        "mutants": len(done),
        "killed": len(killed),
        "survived": len(alive),
        "equivalent": len(equivalent),
        "equivalent_because": dict(Counter(status[one.target] for one in equivalent)),
        "rate": len(killed) / wrong if wrong else 1.0,
        "kinds": kinds,
        "first_laws": dict(Counter(tried[one.target]["killed"] for one in killed).most_common(12)),
        "seconds": round(sum(one["seconds"] for lines in (tried, grounds) for one in lines.values())),
        "survivors": survivors,
        "harness": harness,
    }


def publish(docs: Path, label: str, found: dict[str, Any]) -> None:
    """Write adversary.json, with the earlier runs of other names, and adversary.md."""
    path = docs / "adversary.json"
    runs: dict[str, Any] = json.loads(path.read_bytes())["runs"] if path.exists() else {}
    runs.pop(label, None)  # the last stands last
    runs[label] = {key: value for key, value in found.items() if key not in ("survivors", "harness")}
    kept = {"schema": SCHEMA, "runs": runs, "survivors": found["survivors"]}
    write_whole(path, (json.dumps(kept, indent=1) + "\n").encode())
    write_whole(docs / "adversary.md", (page(label, kept) + by_hand(docs / "adversary.md")).encode())


BY_HAND = "\n## Readers' attacks\n"
"""From here on the page is written by hand, and stays as it is."""


def by_hand(path: Path) -> str:
    """What stands on a page below the part that is made."""
    _, heading, rest = (path.read_text(encoding="utf-8") if path.exists() else "").partition(BY_HAND)
    return heading + rest


def page(label: str, kept: dict[str, Any]) -> str:
    """The rates of all runs, and the survivors of the last, as Markdown."""
    runs: dict[str, Any] = kept["runs"]
    last = runs[label]
    drawn = last.get("drawn", last["mutants"])
    command = f"mhc-properties adversary --seed {last['seed']} --mutants {drawn} --label {json.dumps(label)}"
    command += f" --preset {last['preset']}" if "preset" in last else ""
    command += f" --law {last['again']}" if "again" in last else ""
    lines = [
        "# An adversary who knows the strategies",
        "",
        "Made by the command below; change what it says, and run it again.",
        "",
        f"    {command}",
        "",
        "A machine draws mutants of the reference by seed. A mutant is wrong at one stage and under a condition",
        "alone: on sizes, values, the mode, earlier calls, the place in the output, or chance. Each is put before",
        "the laws of the default profile in float32 (where the condition names bfloat16, in bfloat16), up to the",
        "first law that fails. `mhc-properties check mutant:SEED:INDEX` does the same with other examples. What no",
        "law sees is run at an input that is made from its conditions, and its output is held to mpmath there (to",
        "float64 where a gradient is one of thousands of numbers). If it is beyond the bound, the mutant is wrong",
        "and survives. Otherwise it is equivalent: its condition cannot be met by what it declares, or what it",
        "does stays within the bound. A condition on a compiler is met there without one. Beside a survivor stands",
        "how often its slip was made before the laws, and the largest error of an example in parts of its bound.",
        "",
        "## Rates",
        "",
        "| run | mutants | seen | wrong, not seen | equivalent | seen of the wrong ones | CPU seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, run in runs.items():
        lines.append(
            f"| {name} (seed {run['seed']}) | {run['mutants']} | {run['killed']} | {run['survived']} | "
            f"{run['equivalent']} | {100 * run['rate']:.1f} % | {run['seconds']} |"
        )
    lines += ["", "By what the condition is about; a mutant with two conditions counts for both:", ""]
    kinds = sorted({kind for run in runs.values() for kind in run["kinds"]})
    lines += [f"| run | {' | '.join(kinds)} |", f"|---|{'---|' * len(kinds)}"]
    for name, run in runs.items():
        cells = [run["kinds"].get(kind, [0, 0]) for kind in kinds]
        lines.append(f"| {name} | {' | '.join(f'{seen} of {every}' for seen, every in cells)} |")
    because = ", ".join(f"{count} {why}" for why, count in sorted(last["equivalent_because"].items()))
    first = ", ".join(f"`{law}` {count}" for law, count in last["first_laws"].items())
    lines += ["", f"Equivalent in the last of these: {because or 'none'}. The laws that were first: {first}.", ""]
    if "again" in last:
        told = f"`{last['again']}` again, as they were by then; classes and counts are of before."
        lines += [f"Survivors of the run before were put before laws whose ids begin with {told}", ""]
    classes = Counter(one["class"] for one in kept["survivors"])
    lines += [f"## What no law sees ({label})", ""]
    lines += [f"{len(kept['survivors'])} mutants are wrong and pass, in {len(classes)} classes:", ""] if classes else []
    lines += [f"* {kind}: {count}" for kind, count in sorted(classes.items(), key=lambda item: (-item[1], item[0]))]
    lines += [] if classes else ["None of the mutants that are wrong passes."]
    lines += [
        "",
        "Each of them is in [adversary.json](adversary.json). `make site` draws them below this page, and says why the",
        "class of each survives.",
    ]
    return "\n".join(lines) + "\n"


def survivors(kept: Mapping[str, Any]) -> list[dict[str, str]]:
    """What no law sees, for a table: target, class, why that survives, what is wrong, and how near it came."""
    return [
        {
            "target": one["target"],
            "class": one["class"],
            "why": reason_of(one["class"]),
            "text": one["text"],
            "made": _made(one).strip(" ()"),
        }
        for one in kept["survivors"]
    ]


def _made(survivor: Mapping[str, Any]) -> str:
    """How often a slip was made in the examples that meet its condition, and how far it went."""
    if not survivor["fired"]:
        return f" (not in {survivor['examples']} examples)" if survivor["examples"] else ""
    return f" ({survivor['fired']} times, {survivor['ratio']:.2g} of the bound at most)"
