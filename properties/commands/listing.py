"""`mhc-properties list`: what the names stand for that targets, dialects and options take."""

from __future__ import annotations

import enum
import textwrap
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from properties.commands.options import JsonOption, refuse
from properties.guards.answer import tell
from properties.guards.printable import printable

WIDTH = 80
"""Characters in a line, where names allow that."""


class What(enum.StrEnum):
    """What there are lists of."""

    DEVIATIONS = "deviations"
    CONTROLS = "controls"
    PUBLISHED = "published"
    PRESETS = "presets"
    FAMILIES = "families"


def listing(
    what: Annotated[What, typer.Argument(metavar="WHAT", help=", ".join(What), show_default=False)],
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="only deviations of this kind")] = None,
    as_json: JsonOption = False,
) -> None:
    """List what there is by name: what each is, its source, and the presets that it is for.

    deviations and controls are targets, deviation:NAME[@PRESET] and control:NAME[@PRESET], and so are published:NAME
    and ref:PRESET; families are what the fields of a dialect name, those of installed packages among them.
    """
    from properties.core.slips import KINDS

    if kind is not None and what is not What.DEVIATIONS:
        refuse(f"--kind {printable(kind, 60)}: only deviations have kinds, and {what} were asked for", as_json)
    if kind is not None and kind not in KINDS:
        refuse(f"--kind {printable(repr(kind), 60)}: expected one of {', '.join(KINDS)}", as_json)
    found = [one for one in _ROWS[what]() if kind is None or one["kind"] == kind]
    broken = _broken() if what is What.FAMILIES else {}
    if as_json:
        tell({what.value: found, **({"broken": broken} if broken else {})})
        return
    for one in found:
        for text in _TEXTS[what](one):
            typer.echo(text)
    for name, why in broken.items():
        typer.echo("\n".join(_wrapped(f"{name} cannot be used: {why}")))
    typer.echo(f"{len(found)} {what}{f' of kind {kind}' if kind else ''}")


def _broken() -> dict[str, str]:
    from mhc_ref import registry

    return {printable(name): printable(why) for name, why in registry.broken().items()}


def _deviations() -> Iterator[dict[str, Any]]:
    from properties.catalogue.deviations import CATALOGUE, HIDDEN

    for one in (CATALOGUE | HIDDEN).values():
        yield {
            "name": one.name,
            "kind": one.kind,
            "slip": one.slip,
            "source": one.source,
            **_where(one.applies),
            "dtypes": [str(dtype).removeprefix("torch.") for dtype in one.dtypes],
            "hidden": one.hidden,
            "needs": one.needs,
        }


def _controls() -> Iterator[dict[str, Any]]:
    from properties.catalogue.controls import CATALOGUE

    for one in CATALOGUE.values():
        yield {"name": one.name, "statement": one.statement, **_where(one.applies)}


def _published() -> Iterator[dict[str, Any]]:
    from properties.targets.published import ADAPTERS, about

    for name in ADAPTERS:
        statement, source = about(name)
        yield {"name": name, "statement": statement, "source": source}


def _presets() -> Iterator[dict[str, Any]]:
    from mhc_ref.presets import PRESETS, SOURCES

    for name, dialect in PRESETS.items():
        values = dialect.fields()
        differs = [field for field in type(dialect)().difference(dialect)]
        yield {"name": name, "source": SOURCES.get(name, ""), "differs": differs, "dialect": values}


def _families() -> Iterator[dict[str, Any]]:
    from mhc_ref import PRESETS, registry
    from properties.core.family import family

    for slot in dict.fromkeys(registry.SLOTS.values()):
        fields = [field for field, one in registry.SLOTS.items() if one == slot]
        for name in registry.names(slot):
            one = family(slot, name)
            chosen = [title for title, dialect in PRESETS.items() if name in (getattr(dialect, f) for f in fields)]
            yield {
                "slot": slot,
                "name": name,
                "words": printable(str(getattr(one, "words", ""))),
                "source": printable(str(getattr(one, "source", ""))),
                "fields": {key: field.words or field.expected for key, field in registry.brought(slot, name).items()},
                "bound": "derived" if getattr(one, "roundings", None) is None else "declared",
                "outside": registry.outside(slot, name) is not None,
                "presets": chosen,
            }


def _where(applies: Callable[[Any], bool]) -> dict[str, list[str]]:
    """The presets for which something is meant; where there is none, other dialects by their titles."""
    from mhc_ref import PRESETS
    from properties.catalogue.deviations import elsewhere

    presets = [name for name, dialect in PRESETS.items() if applies(dialect)]
    others = [] if presets else [title for title, dialect in elsewhere().items() if applies(dialect)]
    return {"presets": presets, "elsewhere": others}


def _for(one: dict[str, Any]) -> str:
    """Where something applies, in words."""
    from mhc_ref import PRESETS

    presets, others = one["presets"], [name for name in PRESETS if name not in one["presets"]]
    if presets and len(others) < 3:
        return f"every preset but {' and '.join(others)}" if others else "every preset"
    return ", ".join(presets) or f"no preset, but {' or '.join(one['elsewhere']) or 'dialects of your own'}"


def _deviation_text(one: dict[str, Any]) -> list[str]:
    hidden = f"; its values are right {one['hidden']}" if one["hidden"] else ""
    head = f"{one['name']} ({one['kind']}): {one['slip']}"
    return [*_wrapped(head), *_wrapped(f"    {_for(one)}; {one['source']}{hidden}")]


def _control_text(one: dict[str, Any]) -> list[str]:
    return [
        *_wrapped(f"{one['name']}: {one['statement'].partition('. ')[0].rstrip('.')}."),
        *_wrapped(f"    {_for(one)}"),
    ]


def _published_text(one: dict[str, Any]) -> list[str]:
    return [*_wrapped(f"{one['name']}: {one['statement']}"), *_wrapped(f"    {one['source']}")]


def _preset_text(one: dict[str, Any]) -> list[str]:
    differs = ", ".join(f"{field} {_value(one['dialect'][field])}" for field in one["differs"])
    return [*_wrapped(f"{one['name']}: {one['source']}"), *_wrapped(f"    {differs or 'the defaults'}")]


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _family_text(one: dict[str, Any]) -> list[str]:
    brings = f"; brings {', '.join(f'{name} ({words})' for name, words in one['fields'].items())}" * bool(one["fields"])
    tail = "; ".join(part for part in (one["source"], ", ".join(one["presets"])) if part)
    outside = "; from outside, with a declared bound" if one["bound"] == "declared" else "; from outside"
    head = f"{one['slot']} {one['name']}: {one['words']}{brings}{outside if one['outside'] else ''}"
    return [*_wrapped(head), *(_wrapped(f"    {tail}") if tail else [])]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


_ROWS: dict[What, Callable[[], Iterator[dict[str, Any]]]] = {
    What.DEVIATIONS: _deviations,
    What.CONTROLS: _controls,
    What.PUBLISHED: _published,
    What.PRESETS: _presets,
    What.FAMILIES: _families,
}
_TEXTS: dict[What, Callable[[dict[str, Any]], list[str]]] = {
    What.DEVIATIONS: _deviation_text,
    What.CONTROLS: _control_text,
    What.PUBLISHED: _published_text,
    What.PRESETS: _preset_text,
    What.FAMILIES: _family_text,
}
