"""The program of the same shape that every framework runs, as its spans are to show it.

`examples/with_<framework>.py` is that program: a planner, two parallel tool calls each of which runs a researcher, a
tool that fails, and a streamed answer that is left early. Every model is the framework's own offline one.
"""

from __future__ import annotations

import importlib.util
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def framework_of(test: Path) -> str:
    """The adapter that a file of tests is about: `test_openai_agents.py` is about "openai-agents"."""
    return test.stem.removeprefix("test_").replace("_", "-")


def program(framework: str) -> ModuleType:
    """A fresh copy of the framework's example."""
    name = f"with_{framework.replace('-', '_')}"
    spec = importlib.util.spec_from_file_location(f"examples.{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def outline(spans: Sequence[ReadableSpan]) -> str:
    """The spans as a drawn tree that is the same in every run: what went wrong, and tokens, behind each name.

    `chat fake · 100+10` used 100 and 10 tokens; `!ValueError` is an error's type; `~cancelled` an outcome that is none.
    Siblings stand by their text, for those that run in parallel have no order.
    """
    children: dict[int | None, list[ReadableSpan]] = {}
    ids = {span.context.span_id for span in spans if span.context is not None}
    for span in spans:
        parent = span.parent.span_id if span.parent is not None and span.parent.span_id in ids else None
        children.setdefault(parent, []).append(span)

    def drawn(span: ReadableSpan) -> list[str]:
        below = sorted(drawn(child) for child in children.get(span.context.span_id if span.context else -1, []))
        return [_said(span), *_indented(below)]

    return "\n".join(line for lines in sorted(drawn(root) for root in children.get(None, [])) for line in lines)


def _indented(below: list[list[str]]) -> Iterator[str]:
    for lines in below:
        last = lines is below[-1]
        for number, line in enumerate(lines):
            if number == 0:
                yield ("└─ " if last else "├─ ") + line
            else:
                yield ("   " if last else "│  ") + line


def _said(span: ReadableSpan) -> str:
    said: dict[str, Any] = dict(span.attributes or {})
    words = [span.name]
    if "gen_ai.usage.input_tokens" in said or "gen_ai.usage.output_tokens" in said:
        words.append(f"{said.get('gen_ai.usage.input_tokens')}+{said.get('gen_ai.usage.output_tokens')}")
    if span.status.status_code is StatusCode.ERROR:
        words.append(f"!{said.get('error.type')}")
    outcome = said.get("agentbus.outcome")
    if outcome not in (None, "ok", "error"):
        words.append(f"~{outcome}")
    return " · ".join(words)


def assert_outline(spans: Sequence[ReadableSpan], expected: str) -> None:
    """Compare with a drawn tree, however that is indented."""
    want, got = textwrap.dedent(expected).strip(), outline(spans)
    assert got == want, f"The trees differ. Expected:\n{want}\nGot:\n{got}"
