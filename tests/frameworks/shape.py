"""The program of the same shape that every framework runs, as its spans are to show it.

`examples/with_<framework>.py` is that program: a planner, two parallel tool calls each of which runs a researcher, a
tool that fails, and a streamed answer that is left early. Every model is the framework's own offline one.
"""

from __future__ import annotations

import importlib.util
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from .. import outlines

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
    """The spans as a drawn tree (see `outlines.outline`)."""
    return outlines.outline(
        outlines.Row(
            id=span.context.span_id if span.context is not None else 0,
            parent=None if span.parent is None else span.parent.span_id,
            name=span.name,
            attributes=dict(span.attributes or {}),
            failed=span.status.status_code is StatusCode.ERROR,
        )
        for span in spans
    )


def assert_outline(spans: Sequence[ReadableSpan], expected: str) -> None:
    """Compare with a drawn tree, however that is indented."""
    want, got = textwrap.dedent(expected).strip(), outline(spans)
    assert got == want, f"The trees differ. Expected:\n{want}\nGot:\n{got}"
