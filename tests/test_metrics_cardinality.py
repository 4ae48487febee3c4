"""A hundred thousand runs whose names are all different or none at all: bounded series and memory, exact sums.

The events are fed to the bridge directly. Blocks and the bus stand before it with bounds of their own (a ring that
drops what comes too fast, content that is cut), which would hide what is asked here, and take most of the time.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData

from otel_agentbus.events import (
    AgentEnd,
    AgentStart,
    CacheMiss,
    ChannelMessage,
    Error,
    LlmRequest,
    LlmResponse,
    ToolCall,
)
from otel_agentbus.telemetry import run_metrics
from otel_agentbus.telemetry.ids import Ids
from otel_agentbus.telemetry.metrics import MetricsBridge
from otel_agentbus.telemetry.series import NAME_LENGTH, instruments_of

from .metrics_reference import bounds
from .test_metrics_exemplars import TRACE

RUNS = 100_000
#: What the SDK keeps of one instrument before it folds the rest without names.
SDK_LIMIT = 2000


class Unhashable:
    __hash__ = None  # type: ignore[assignment]  # that is the point


class Raising:
    """Whatever is asked of it, it raises."""

    def __hash__(self) -> int:
        raise RuntimeError("no hash")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not equal to anything")

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __bool__(self) -> bool:
        raise RuntimeError("neither")


class Sly(str):
    """A text that raises where a dict looks it up."""

    __slots__ = ()

    def __hash__(self) -> int:
        raise RuntimeError("no hash")


ODD: tuple[Any, ...] = (
    None,
    "",
    [],
    {},
    3.5,
    float("nan"),
    True,
    b"bytes",
    Unhashable(),
    Raising(),
    Sly("sly"),
    10**400,
)


def hostile(number: int, what: str) -> Any:
    """The name of something in this run: an id in it, far too long, not ASCII, not even a text, or none at all."""
    match number % 8:
        case 0 | 1:
            return f"{what}-{number:08x}-3b1c-4f8e"
        case 2:
            return f"{number} {what} " + "x" * 10_000
        case 3:
            return "x" * 10_000 + f" {what} {number}"  # which differs where it is cut off
        case 4:
            return f"{what} \N{SNOWMAN}\N{GRINNING FACE}\u202e{number}"
        case 5:
            return f"{what}\ud800{number}\udfff\x00\n"
        case 6:
            return ODD[number // 8 % len(ODD)]
        case _:
            return f"the same {what}"


class Sums:
    """What the events of the runs come to."""

    def __init__(self) -> None:
        self.tokens: Counter[str] = Counter()
        self.cost = Fraction(0)
        self.count: Counter[str] = Counter()
        self.seconds = Fraction(0)


def events(number: int, sums: Sums) -> Iterator[Any]:
    """One run, and what it adds to the sums. One in four never ends."""
    place: dict[str, Any] = {
        "invocation_id": f"run-{number}",
        "root_invocation_id": f"run-{number}",
        "agent": hostile(number, "agent"),
        "source": "s",
        "trace": TRACE,
    }
    seq = iter(range(10 * number, 10 * number + 10))
    model: dict[str, Any] = {"model_provider": hostile(number + 1, "host"), "model": hostile(number + 2, "model")}
    yield AgentStart(**place, **model, seq=next(seq), time_ns=number)
    operation = hostile(number + 3, "operation")
    yield LlmRequest(**place, **model, messages_count=1, call_id="c", operation=operation, seq=next(seq))
    tokens = {"input": 1000 + number % 977, "output": number % 89, "cache_read": number % 61, "reasoning": number % 7}
    tokens["reasoning"] = min(tokens["reasoning"], tokens["output"])
    cost, duration = (number % 1009) * 1.7e-7, (number % 101) / 64
    yield LlmResponse(
        **place,
        **model,
        seq=next(seq),
        call_id="c",
        response_model=hostile(number + 4, "served"),
        duration=duration,
        success=number % 3 > 0,
        error_type=hostile(number + 5, "Error") if number % 3 == 0 else None,
        input_tokens=tokens["input"],
        output_tokens=tokens["output"],
        cache_read_input_tokens=tokens["cache_read"],
        reasoning_output_tokens=tokens["reasoning"],
        cost_usd=cost,
    )
    yield ToolCall(**place, seq=next(seq), tool=hostile(number + 6, "tool"), duration=0.5, success=True)
    yield Error(**place, seq=next(seq), component=hostile(number + 7, "component"), message="m")
    sums.count.update(("llm", "tool", "error"))
    sums.tokens.update(tokens)
    sums.cost += Fraction(cost)
    sums.seconds += Fraction(duration)
    if number % 4:
        yield AgentEnd(**place, seq=next(seq), duration=1.0)
        sums.count["ended"] += 1
    if number % 10 == 0:
        yield CacheMiss(**place, cache_type=hostile(number, "cache"))
        yield ChannelMessage(**(place | {"channel": hostile(number, "channel")}), direction=hostile(number, "way"))
        sums.count["tenth"] += 1


def deep_size(*roots: object) -> int:
    """The bytes of everything that hangs on these objects, but for code, classes and modules."""
    seen: set[int] = set()
    waiting: list[object] = list(roots)
    size = 0
    while waiting:
        found = waiting.pop()
        if id(found) in seen or isinstance(found, (ModuleType, type, FunctionType, CodeType, FrameType)):
            continue
        seen.add(id(found))
        size += sys.getsizeof(found)
        waiting += gc.get_referents(found)
    return size


class Fed:
    """What is left of the runs: the sums, what a reader reads, and what the tables weigh half-way and at the end."""

    def __init__(self) -> None:
        self.sums = Sums()
        reader = InMemoryMetricReader()
        provider = MeterProvider([reader], shutdown_on_exit=False)
        self.bridge = MetricsBridge(provider, conventions="both", ids=Ids())
        self.sizes = []
        for number in range(RUNS):
            for event in events(number, self.sums):
                self.bridge(event)
            if number in {RUNS // 2, RUNS - 1}:
                self.sizes.append(deep_size(self.bridge, instruments_of(provider), provider))
        data = reader.get_metrics_data()
        assert isinstance(data, MetricsData)
        self.data = data
        self.metrics: dict[str, list[Any]] = {
            metric.name: list(metric.data.data_points)
            for rm in data.resource_metrics
            for sm in rm.scope_metrics
            for metric in sm.metrics
        }

    def total(self, name: str, **attributes: str) -> Any:
        """The sum of the points of this metric, of a histogram the number of measurements."""
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}.items()
        points = [point for point in self.metrics[name] if wanted <= dict(point.attributes).items()]
        return sum(point.count if hasattr(point, "count") else point.value for point in points)


@pytest.fixture(scope="module")
def fed() -> Fed:
    return Fed()


def test_no_token_is_lost(fed: Fed) -> None:
    told = {kind: fed.total("agentbus.tokens.used", gen_ai__token__type=kind) for kind in fed.sums.tokens}
    assert told == fed.sums.tokens
    for kind in ("input", "output"):
        points = [p for p in fed.metrics["gen_ai.client.token.usage"] if p.attributes["gen_ai.token.type"] == kind]
        assert sum(point.sum for point in points) == fed.sums.tokens[kind]


def test_no_cent_is_lost(fed: Fed) -> None:
    assert abs(Fraction(fed.total("agentbus.cost.spent")) - fed.sums.cost) < Fraction(1, 10**9)
    assert fed.sums.cost > 8


def test_no_call_and_no_run_is_lost(fed: Fed) -> None:
    count = fed.sums.count
    assert {
        name: fed.total(name)
        for name in (
            *("agentbus.llm.calls", "gen_ai.client.operation.duration", "agentbus.tool.calls"),
            *("gen_ai.execute_tool.duration", "agentbus.errors", "agentbus.agent.runs", "gen_ai.invoke_agent.duration"),
            *("agentbus.cache.misses", "agentbus.channel.messages"),
        )
    } == {
        "agentbus.llm.calls": count["llm"],
        "gen_ai.client.operation.duration": count["llm"],
        "agentbus.tool.calls": count["tool"],
        "gen_ai.execute_tool.duration": count["tool"],
        "agentbus.errors": count["error"],
        "agentbus.agent.runs": count["ended"],
        "gen_ai.invoke_agent.duration": count["ended"],
        "agentbus.cache.misses": count["tenth"],
        "agentbus.channel.messages": count["tenth"],
    }
    seconds = sum(Fraction(point.sum) for point in fed.metrics["gen_ai.client.operation.duration"])
    assert seconds == fed.sums.seconds  # of sixty-fourths, which floats add exactly


def test_runs_that_never_end_are_given_up_and_counted(fed: Fed) -> None:
    open_now, given_up = fed.total("agentbus.agent.active"), fed.total("agentbus.metrics.discarded")
    assert open_now + given_up == RUNS // 4
    assert 0 <= run_metrics.OPEN_RUNS - open_now <= 1  # the last one that began has made room, and has ended
    reasons = {point.attributes["agentbus.reason"] for point in fed.metrics["agentbus.metrics.discarded"]}
    assert reasons == {"open_too_long"}


def test_the_series_of_each_instrument_are_bounded_and_the_sdk_never_folds_any(fed: Fed) -> None:
    assert {name: len(points) for name, points in fed.metrics.items() if len(points) >= SDK_LIMIT} == {}
    assert not any("otel.metric.overflow" in point.attributes for points in fed.metrics.values() for point in points)


def test_each_attribute_shows_as_many_values_as_the_page_says_and_no_long_one(fed: Fed) -> None:
    values: dict[str, set[str]] = {}
    for point in (point for points in fed.metrics.values() for point in points):
        for attribute, value in point.attributes.items():
            values.setdefault(attribute, set()).add(value)
    limits = bounds()
    assert {name: len(found) for name, found in values.items() if len(found) > limits[name] + 1} == {}
    assert max(len(value) for found in values.values() for value in found) == NAME_LENGTH
    assert "" not in set().union(*values.values())


def test_other_is_told(fed: Fed) -> None:
    folded = fed.total("agentbus.metrics.overflowed")
    assert folded == fed.bridge.overflowed > RUNS
    for name, attribute in (
        ("agentbus.tokens.used", "gen_ai.agent.name"),
        ("agentbus.tokens.used", "gen_ai.request.model"),
        ("agentbus.tool.calls", "gen_ai.tool.name"),
        ("agentbus.errors", "agentbus.component"),
    ):
        assert any(point.attributes.get(attribute) == "other" for point in fed.metrics[name]), (name, attribute)


def test_what_is_exported_can_be_encoded_and_is_no_larger_than_the_series(fed: Fed) -> None:
    encoded = encode_metrics(fed.data).SerializeToString()
    assert len(encoded) < 20_000_000


def test_memory_is_bounded(fed: Fed) -> None:
    halfway, end = fed.sizes
    assert end < 1.1 * halfway  # tables that drop their older half are now fuller, now emptier
    assert end < 120_000_000
