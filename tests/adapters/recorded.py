"""What adapters' tests compare: the events of a test without what is new in every run, and lists kept as files."""

from __future__ import annotations

import json
import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from otel_agentbus.events import Event

GOLDEN = Path(__file__).parent / "golden"

_TIMES = {"time_ns", "seq", "source", "duration", "trace", "tracestate", "time_to_first_chunk"}
_IDS = {
    "invocation_id": "run",
    "parent_invocation_id": "run",
    "root_invocation_id": "run",
    "conversation_id": "talk",
    "call_id": "call",
}

#: pydantic's error texts name its version.
_VERSION = re.compile(r"(errors\.pydantic\.dev/)[\d.]+")


class Names:
    """Ids that are new in every run, by names that are not: run1, talk1, call1."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def of(self, kind: str, id: str) -> str:
        if id not in self._known:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._known[id] = f"{kind}{self._counts[kind]}"
        return self._known[id]

    def call(self, id: str) -> str:
        return "llm:" + self.of("call", id.removeprefix("llm:")) if id.startswith("llm:") else id


def told(events: list[Event]) -> list[dict[str, Any]]:
    """All that the events say but times, with ids by stable names and without what is unset."""
    names = Names()
    return [_told(event, names) for event in events]


def _told(event: Event, names: Names) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for name in ("event", *(field.name for field in fields(event) if field.name != "event")):
        value = getattr(event, name)
        if name in _TIMES or value in (None, {}) or (name, value) == ("attempt", 1):
            continue
        if name in _IDS:
            value = names.of(_IDS[name], value)
        elif name == "parent_call_id":
            value = names.call(value)
        said[name] = value
    return said


def expect(name: str, rows: list[dict[str, Any]]) -> None:
    """Compare with the rows in the file of that name; AGENTBUS_UPDATE_GOLDEN=1 writes it, to be read before commit."""
    path = GOLDEN / f"{name}.jsonl"
    lines = [_VERSION.sub(r"\1*", json.dumps(row, ensure_ascii=False, default=repr)) for row in rows]
    if os.environ.get("AGENTBUS_UPDATE_GOLDEN") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    assert [json.loads(line) for line in lines] == [json.loads(line) for line in path.read_text().splitlines()]
