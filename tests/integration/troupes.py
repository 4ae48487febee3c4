"""What the troupe has told, and what Jaeger has of it: started as a process, waited for, compared."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from otel_agentbus.telemetry.ids import Ids, SpanKindName

from .backends import eventually
from .programs import troupe
from .programs.troupe import SPANS, Line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .backends import Jaeger
    from .otlp_json import Span, Value

ROOT = Path(__file__).parents[2]
IDS = Ids()
PROTOCOLS = ("http/protobuf", "grpc")

Protocol = Literal["grpc", "http/protobuf"]

#: What differs between two runs of the same program.
VARYING = ("service.instance.id", "process.pid")


@dataclass(frozen=True)
class Ended:
    """A program that has ended: its exit code, what it wrote on standard error, and when, in monotonic seconds."""

    code: int
    said: str
    at: float


class Process:
    """A program of ours as a process of its own; of the variables that matter it knows only these."""

    def __init__(self, directory: Path, variables: Mapping[str, str], module: str, *arguments: str) -> None:
        self._errors = directory / f"{module.rpartition('.')[2]}-{time.monotonic_ns()}.stderr"
        with self._errors.open("wb") as errors:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                env=environment(variables),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    def wait(self, timeout: float = 60.0) -> Ended:
        """Until it has ended; one that takes longer is killed, and that is an error."""
        try:
            code = self.popen.wait(timeout)
        finally:
            self.popen.kill()
            self.popen.wait()
        return Ended(code, self._errors.read_text(errors="replace"), time.monotonic())


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of the tests, but of telemetry only these variables."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "AGENTBUS_"))}
    return {**others, **variables}


class Troupe(Process):
    """The program `troupe`; `told()` is what it has told so far."""

    def __init__(
        self, directory: Path, variables: Mapping[str, str], name: str, runs: int, *, linger: float = 0
    ) -> None:
        self.name = name
        self._telling = directory / f"{name}.told"
        super().__init__(directory, variables, troupe.__name__, name, str(runs), str(self._telling), str(linger))

    def told(self) -> list[Line]:
        """What it has told so far."""
        return troupe.read(self._telling) if self._telling.exists() else []

    def await_ready(self, timeout: float = 60.0) -> None:
        """Until it begins."""
        told = eventually(self.told, bool, timeout, interval=0.01)
        assert told, "the program does not begin"

    def last_line(self) -> float:
        """When it told that all is done, in monotonic seconds."""
        last = self.told()[-1]
        assert last.at == "last"
        return int(last.ns) / 1e9


def roots(lines: list[Line]) -> list[str]:
    """The trees that were begun, in that order."""
    return list(dict.fromkeys(line.root for line in lines if line.root))


def span_id(line: Line) -> str:
    """The id of the span that a line is about, as hex."""
    return f"{IDS.span_id(line.root, cast('SpanKindName', line.kind), line.run, line.local):016x}"


def trace_id(root: str) -> str:
    """The trace of a tree, as hex."""
    return f"{IDS.trace_id(root):032x}"


def in_jaeger(jaeger: Jaeger, name: str, runs: int, timeout: float = 30.0) -> dict[str, list[Span]]:
    """The spans of all of the troupe's trees by their roots, once they are complete."""
    expected = [f"{name}-{thread}-{number}" for thread in range(troupe.THREADS) for number in range(runs)]
    deadline = time.monotonic() + timeout
    return {
        root: jaeger.trace(trace_id(root), spans=SPANS, timeout=max(deadline - time.monotonic(), 0.1))
        for root in expected
    }


def has_none(jaeger: Jaeger, name: str, runs: int) -> bool:
    """Whether Jaeger has nothing of any of the troupe's trees."""
    expected = [f"{name}-{thread}-{number}" for thread in range(troupe.THREADS) for number in range(runs)]
    return not any(jaeger.spans(trace_id(root)) for root in expected)


#: How attributes begin that Jaeger adds: that a child was measured a little longer than its parent, on a busy machine.
JAEGERS = "@jaeger@"


def outline(spans: list[Span], name: str) -> list[str]:
    """A tree as lines that are equal for two equal programs: paths of names with the attributes, `name` left out."""
    by_id = {span.span_id: span for span in spans}
    lines = []
    for span in spans:
        path, at = [span.name], span
        while at.parent_span_id is not None:
            at = by_id[at.parent_span_id]  # an orphan is a KeyError
            path.append(at.name)
        resource = {key: value for key, value in span.resource.items() if key not in VARYING}
        own = {key: value for key, value in span.attributes.items() if not key.startswith(JAEGERS)}
        said = sorted((key, rounded(value)) for key, value in {**own, **resource}.items())
        lines.append(f"{' < '.join(path)} {span.kind} {span.status} {said}".replace(name, "…"))
    return sorted(lines)


def rounded(value: Value) -> Value:
    """Costs without what their sum owes to the order in which parallel calls ended."""
    return round(value, 9) if isinstance(value, float) else value


def assert_whole(spans: list[Span], root: str, told: list[Line]) -> None:
    """The tree of one complete run: each span of it once, under the right parent, with the tokens of its own call."""
    lines = {span_id(line): line for line in told if line.at == "end" and line.root == root}
    assert len(lines) == SPANS
    seen = Counter(span.span_id for span in spans)
    assert seen == Counter(list(lines)), f"{root}: {seen}"
    for span in spans:
        assert span.attributes["agentbus.outcome"] == "ok"
        assert_own_place(span, lines[span.span_id])
        assert_own_tokens(span, lines[span.span_id])


def assert_own_place(span: Span, line: Line) -> None:
    """The span's parent is what encloses it."""
    assert span.parent_span_id == (None if (parent := parent_of(line)) is None else span_id(parent))


def assert_own_tokens(span: Span, line: Line) -> None:
    """A model call has its own tokens, and nobody else's."""
    if line.kind == "llm":
        assert span.attributes["gen_ai.usage.input_tokens"] == troupe.tokens_of(line.root, line.run, line.local)


def parent_of(line: Line) -> Line | None:
    """What encloses the block that a line is about."""
    if line.kind in ("llm", "tool"):
        return line._replace(kind="agent", local="")
    if line.run == line.root:
        return None
    return line._replace(kind="tool", run=line.root, local=f"call {line.run.rpartition('/')[2]}")
