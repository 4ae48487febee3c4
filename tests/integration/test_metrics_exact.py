"""Ten thousand calls, as the Collector's Prometheus page tells them: no token and no billionth of a dollar is missing.

The program is a process of its own, from 8 threads and 200 tasks; what it should come to is computed from its plan.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from subprocess import PIPE

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from .backends import Collector, Jaeger, eventually
from .metrics import Metrics
from .programs import ten_thousand
from .programs.ten_thousand import CALLS, EACH, PRICES, Call

ROOT = Path(__file__).parents[2]

#: What the user's price file says, per token.
INPUT, OUTPUT, CACHE_READ = Fraction("0.3") / 10**6, Fraction("1.7") / 10**6, Fraction("0.03") / 10**6


#: What is waited for: the Collector takes an export in batches of which each is shown as it comes.
AWAITED = (
    *(
        "agentbus_llm_calls_total",
        "agentbus_tokens_used_total",
        "agentbus_cost_spent_total",
        "agentbus_cost_saved_total",
    ),
    *("agentbus_cost_unpriced_calls_total", "agentbus_calls_duplicate_total", "agentbus_agent_runs_total"),
    *("agentbus_events_emitted_total", "agentbus_events_dropped_total", "agentbus_spans_dropped_total"),
    *("gen_ai_client_token_usage_sum", "gen_ai_client_operation_duration_seconds_count"),
)


@dataclass(frozen=True)
class Ran:
    """The program has run: what it was called, how many events it emitted, and what the Collector shows of it."""

    service: str
    emitted: int
    metrics: Metrics
    #: The metrics with an exemplar, and its labels.
    exemplars: list[tuple[str, dict[str, str]]]

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """The samples of a metric, added up by one label."""
        found: dict[str, float] = {}
        for sample in self.metrics.select(name, job=self.service, **labels):
            key = sample.labels.get(label, "")
            found[key] = found.get(key, 0) + sample.value
        return found


@pytest.fixture(scope="module", params=["http/protobuf", "grpc"])
def ran(request: pytest.FixtureRequest, collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The program over each protocol; it knows the standard variables and a file of prices."""
    prices = tmp_path_factory.mktemp("ten_thousand") / "prices.toml"
    prices.write_text(PRICES)
    service = f"ten-thousand-{uuid.uuid4().hex[:8]}"
    grpc = request.param == "grpc"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "AGENTBUS_"))}
    environment |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.otlp_grpc_endpoint if grpc else collector.otlp_http_endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": request.param,
        "OTEL_SERVICE_NAME": service,
        "AGENTBUS_PRICES": str(prices),
    }
    command = [sys.executable, "-m", ten_thousand.__name__]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=PIPE, stdout=PIPE, text=True) as program:
        assert program.stdout is not None
        watchdog = threading.Timer(120, program.kill)
        watchdog.start()
        emitted = int(program.stdout.readline())
        watchdog.cancel()
        # Read while it lives: an exemplar is exported once, and the last export of a program has none of before.
        linked = eventually(
            lambda: list(exemplars(collector, service)),
            lambda found: {name for name, _ in found} >= LINKED.keys(),
            10.0,
        )
        program.communicate(timeout=60)
    assert program.returncode == 0
    metrics = eventually(
        collector.scrape, lambda metrics: all(metrics.select(name, job=service) for name in AWAITED), 10.0
    )
    return Ran(service, emitted, metrics, linked)


def used(*kinds: str) -> list[Call]:
    """The calls of these kinds."""
    return [call for call in CALLS if call.kind in kinds]


def listed(call: Call) -> Fraction:
    """What a call costs by the user's prices, in which what the cache has read is a part of the input."""
    return (call.input - call.cache_read) * INPUT + call.cache_read * CACHE_READ + call.output * OUTPUT


COUNTED = used("reported", "override", "unlisted", "nobody", "repeated", "framework")


def test_the_plan_is_ten_thousand_calls_of_every_kind() -> None:
    assert len(CALLS) == 10_000
    assert min(Counter(call.kind for call in CALLS).values()) > 900


@pytest.mark.parametrize(
    ("kind", "tokens"),
    [("input", lambda c: c.input), ("output", lambda c: c.output), ("cache_read", lambda c: c.cache_read)],
)
def test_every_token_is_there_once(ran: Ran, kind: str, tokens: Callable[[Call], int]) -> None:
    want: Counter[str] = Counter()
    for call in COUNTED:
        want[call.agent] += tokens(call)
    assert ran.by("agentbus_tokens_used_total", "gen_ai_agent_name", gen_ai_token_type=kind) == want
    if kind != "cache_read":
        name = "gen_ai_client_token_usage_sum"
        assert ran.metrics.total(name, job=ran.service, gen_ai_token_type=kind) == sum(want.values())


def test_tokens_are_told_by_model(ran: Ran) -> None:
    want: Counter[str] = Counter()
    for call in COUNTED:
        want[call.model] += call.input
    assert ran.by("agentbus_tokens_used_total", "gen_ai_request_model", gen_ai_token_type="input") == want


def test_the_cost_is_right_to_a_billionth_of_a_dollar(ran: Ran) -> None:
    want = {
        "reported": sum(Fraction(call.cost_usd or 0) for call in used("reported")),
        "override": sum(map(listed, used("override", "repeated", "framework"))),
        "cached": Fraction(0),
    }
    got = ran.by("agentbus_cost_spent_total", "agentbus_cost_source")
    assert got.keys() == want.keys()
    for source, cost in want.items():
        assert abs(Fraction(got[source]) - cost) < Fraction(1, 10**9), source
    saved = Fraction(ran.metrics.total("agentbus_cost_saved_total", job=ran.service))
    assert abs(saved - sum(map(listed, used("cached")))) < Fraction(1, 10**9)


def test_calls_without_a_price_are_counted_by_reason(ran: Ran) -> None:
    assert ran.by("agentbus_cost_unpriced_calls_total", "agentbus_reason") == {
        "unknown_model": len(used("unlisted")),
        "unknown_provider": len(used("nobody")),
        "no_usage": len(used("silent")),
    }


def test_every_call_is_counted_once_and_what_told_of_it_again_as_a_duplicate(ran: Ran) -> None:
    assert ran.by("agentbus_llm_calls_total", "agentbus_outcome") == {"ok": len(CALLS)}
    assert ran.metrics.total("gen_ai_client_operation_duration_seconds_count", job=ran.service) == len(CALLS)
    assert ran.by("agentbus_calls_duplicate_total", "agentbus_reason") == {
        "call_id": 2 * len(used("repeated")),
        "enclosing": len(used("framework")),
    }


def test_nothing_is_dropped_and_every_event_is_told(ran: Ran) -> None:
    def total(name: str) -> float:
        assert ran.metrics.select(name, job=ran.service), name
        return ran.metrics.total(name, job=ran.service)

    assert total("agentbus_events_emitted_total") == ran.emitted
    assert ran.emitted > 2 * len(CALLS)
    assert total("agentbus_events_dropped_total") == 0
    assert total("agentbus_spans_dropped_total") == 0
    assert total("agentbus_agent_runs_total") == len(ten_thousand.RUNS)
    assert total("agentbus_agent_active") == 0
    assert ran.metrics.select("agentbus_metrics_discarded_total", job=ran.service) == []
    assert ran.metrics.select("agentbus_metrics_overflowed_total", job=ran.service) == []
    assert ran.metrics.select("agentbus_usage_mismatch_total", job=ran.service) == []


# -- exemplars --------------------------------------------------------------------------------------------------------

#: How the spans are called of what a metric measures.
LINKED = {
    "gen_ai_client_operation_duration_seconds": "chat ",
    "gen_ai_client_token_usage": "chat ",
    "gen_ai_invoke_agent_duration_seconds": "invoke_agent ",
}


def exemplars(collector: Collector, service: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The exemplars of a service, as Prometheus asks for them."""
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    page = httpx.get(collector.prometheus_url, headers=accept, timeout=10.0, trust_env=False)
    assert page.headers["content-type"].startswith("application/openmetrics-text")
    for family in text_string_to_metric_families(page.text):  # type: ignore[no-untyped-call]  # as it is
        for sample in family.samples:
            if sample.exemplar is not None and sample.labels.get("job") == service:
                yield family.name, dict(sample.exemplar.labels)


@pytest.mark.parametrize("metric", LINKED)
def test_a_bucket_leads_to_the_span_of_a_call_that_fell_into_it_in_jaeger(
    ran: Ran, jaeger: Jaeger, metric: str
) -> None:
    found = [labels for name, labels in ran.exemplars if name == metric]
    assert found
    for labels in found[:3]:
        spans = jaeger.trace(labels["trace_id"], spans=1 + EACH)
        (span,) = (span for span in spans if span.span_id == labels["span_id"])
        assert span.name.startswith(LINKED[metric])
        assert span.resource["service.name"] == ran.service
