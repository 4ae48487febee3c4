"""A trace as a drawn text that is the same in every run, wherever its spans come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple


class Row(NamedTuple):
    """What is drawn of one span."""

    id: int | str
    parent: int | str | None
    name: str
    attributes: Mapping[str, Any]
    failed: bool


def outline(rows: Iterable[Row]) -> str:
    """Spans as a drawn tree: what went wrong, and tokens, behind each name.

    `chat fake · 100+10` used 100 and 10 tokens; `!ValueError` is an error's type; `~cancelled` an outcome that is none.
    Siblings stand by their text, for those that run in parallel have no order.
    """
    given = list(rows)
    ids = {row.id for row in given}
    children: dict[int | str | None, list[Row]] = {}
    for row in given:
        children.setdefault(row.parent if row.parent in ids else None, []).append(row)

    def drawn(row: Row) -> list[str]:
        return [_said(row), *_indented(sorted(drawn(child) for child in children.get(row.id, [])))]

    return "\n".join(line for lines in sorted(drawn(root) for root in children.get(None, [])) for line in lines)


def _indented(below: list[list[str]]) -> Iterator[str]:
    for lines in below:
        last = lines is below[-1]
        for number, line in enumerate(lines):
            if number == 0:
                yield ("└─ " if last else "├─ ") + line
            else:
                yield ("   " if last else "│  ") + line


def _said(row: Row) -> str:
    said = row.attributes
    words = [row.name]
    if "gen_ai.usage.input_tokens" in said or "gen_ai.usage.output_tokens" in said:
        words.append(f"{said.get('gen_ai.usage.input_tokens')}+{said.get('gen_ai.usage.output_tokens')}")
    if row.failed:
        words.append(f"!{said.get('error.type')}")
    outcome = said.get("agentbus.outcome")
    if outcome not in (None, "ok", "error"):
        words.append(f"~{outcome}")
    return " · ".join(words)
