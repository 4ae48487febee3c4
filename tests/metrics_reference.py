"""docs/metrics.md, made from the table of instruments: `python -m tests.metrics_reference` renews it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from opentelemetry.sdk.metrics import MeterProvider

from otel_agentbus.telemetry import instruments, names, vitals
from otel_agentbus.telemetry.instruments import Metric
from otel_agentbus.telemetry.metrics import MetricsBridge
from otel_agentbus.telemetry.series import NAME_LENGTH, SETS, instruments_of
from otel_agentbus.telemetry.usage import MAX_TOKENS

from .measured import TABLE, family

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"

KINDS: Mapping[instruments.Kind, str] = {
    "counter": "only rises; a sum (monotonic)",
    "level": "rises and falls; a sum over all processes (not monotonic)",
    "gauge": "a value of now; never to be summed",
    "histogram": "how many measurements fell into each bucket, with their number and their sum",
}

BUCKETS: Mapping[str, tuple[float, ...]] = {
    "call": instruments.CALL_SECONDS,
    "run": instruments.RUN_SECONDS,
    "deployment": instruments.DEPLOY_SECONDS,
    "lead": instruments.LEAD_SECONDS,
    "tokens": instruments.TOKENS,
    "calls": instruments.CALLS,
}

#: Attributes with a few values that are known beforehand.
FIXED: Mapping[str, tuple[str, ...]] = {
    names.TOKEN_TYPE: ("input", "output", "cache_read", "cache_write", "reasoning"),
    names.TOKEN_MODALITY: ("unknown",),
    names.OUTCOME: ("ok", "error", "cancelled", "interrupted", "other"),
    names.COST_SOURCE: ("reported", "override", "priced", "cached"),
    names.DEPLOYMENT_STATUS: ("succeeded", "failed"),
}

#: What the reasons of a metric are.
REASONS: Mapping[Metric, tuple[str, ...]] = {
    instruments.UNPRICED_CALLS: (
        *("unknown_model", "unknown_provider", "no_usage", "invalid_usage", "no_price_source"),
    ),
    instruments.CALLS_DUPLICATE: ("call_id", "response_id", "enclosing", "event"),
    instruments.USAGE_MISMATCH: ("input_tokens", "output_tokens", "tokens", "cost_usd"),
    instruments.DISCARDED: ("invalid", "failure", "open_too_long", "commit_time"),
    instruments.HEALTH["events.dropped"]: ("queue_full", "invalid", "exit_timeout"),
    instruments.HEALTH["spans.dropped"]: instruments.SPAN_LOSSES,
}

MEANINGS: Mapping[str, str] = {
    names.OPERATION: "What the call was: `chat`, `embeddings`, …",
    names.PROVIDER: "Who served the model, under the conventions' name where there is one.",
    names.REQUEST_MODEL: "The model that was asked for.",
    names.RESPONSE_MODEL: "The model that answered.",
    names.AGENT_NAME: "The agent.",
    names.TOOL_NAME: "The tool.",
    names.TOKEN_TYPE: "Which tokens:",
    names.TOKEN_MODALITY: "What the tokens say; of a whole call no provider tells it:",
    names.ERROR_TYPE: "The error's class, or the provider's code; `_OTHER` where it is a sentence.",
    names.OUTCOME: "How it ended:",
    names.COST_SOURCE: "Where the cost comes from, as said above:",
    names.REASON: "Why; see the metric.",
    names.COMPONENT: "In which part of the application.",
    names.CHANNEL: "The channel of a message.",
    names.DIRECTION: "`inbound` or `outbound`.",
    names.CACHE_TYPE: "Which cache of the application.",
    names.BUDGET: "The budget's name.",
    names.THRESHOLD: "The share of the limit: 0.8, 1.",
    names.DEPLOYMENT_STATUS: "How the deployment ended:",
    names.RELAY_GROUP: "The relay's group of workers.",
}


#: What of the health is declared, and told by no pipeline so far.
SILENT = ("events.late",)


class Section(NamedTuple):
    """One table of the page."""

    title: str
    begins: tuple[str, ...]
    note: str = ""


SECTIONS = (
    Section("Model calls, by the conventions", ("gen_ai.client.",)),
    Section("Agents and tools, by the conventions", ("gen_ai.",)),
    Section("Tokens and money", ("agentbus.tokens.", "agentbus.cost.", "agentbus.budget.")),
    Section(
        "Calls, runs and what happens in them",
        (
            *("agentbus.llm.", "agentbus.calls.", "agentbus.usage.", "agentbus.tool.", "agentbus.agent."),
            *("agentbus.cache.", "agentbus.errors", "agentbus.channel.", "agentbus.heartbeats"),
        ),
    ),
    Section("Deployments", ("agentbus.deployment", "agentbus.recovery.")),
    Section(
        "Relay workers",
        ("agentbus.relay.",),
        "Each worker of `otel-agentbus relay` says `lag` and `trimmed` of all shards of its group: take the highest, "
        "never the sum.",
    ),
    Section(
        "The health of the observer itself",
        ("agentbus.",),
        f"Of {', '.join(f'`agentbus.{key}`' for key in SILENT)} nobody tells yet: they have no points.",
    ),
)

INTRO = """\
# Metrics

*Made from `otel_agentbus/telemetry/instruments.py` by `make docs`. A test holds this page against the table, and the
table against what is really emitted: kinds, units, descriptions, buckets and attributes.*

Metrics are counted where an event was emitted, whatever the sampler says of its spans, and each thing once: what is
told a second time (by a framework and by its provider, by an end event that is repeated) is recognised and not added.
Names that begin with `gen_ai.` are those of OpenTelemetry's conventions, in the flavour that `AGENTBUS_CONVENTIONS`
chooses: `1.41` (what backends read today), `2026-10`, or `both`. Names that begin with `agentbus.` are ours, and are
the same in each flavour.

## How to read them

**Tokens.** Only `input` + `output` are totals. `cache_read` and `cache_write` are parts of `input`, and `reasoning` is
a part of `output`: adding them counts tokens twice. The parts are told apart because they are priced apart.

```promql
sum by (gen_ai_agent_name) (increase(agentbus_tokens_used_total{{gen_ai_token_type=~"input|output"}}[1d]))
```

**Money.** `agentbus.cost.spent` is in USD, by `agentbus.cost.source`:

| source | the cost is |
|---|---|
| `reported` | what the provider said itself; it wins over every other |
| `override` | by the prices of your own file, `AGENTBUS_PRICES` |
| `priced` | by the public price list, as it was when the call was made |
| `cached` | 0: the answer came from the application's own cache; what it would have cost is in `agentbus.cost.saved` |

A call whose cost is not known adds nothing to it, for unknown is not 0; it is counted in
`agentbus.cost.unpriced_calls`, by `agentbus.reason`:

| reason | why there is no cost |
|---|---|
| `unknown_model`, `unknown_provider` | no price list knows it; a line in `AGENTBUS_PRICES` helps |
| `no_usage` | nobody told its tokens (a call that failed before it used any is not counted) |
| `invalid_usage` | what was told cannot be true: less than 0, more than {max_tokens:,} tokens |
| `no_price_source` | neither the extra `prices` is installed nor is there a price file |

So what was spent is exact where `agentbus.cost.unpriced_calls` and `agentbus.events.dropped` are 0, and the least that
it can be where they are not.

**Bounds.** No id, path or free text is ever an attribute. A name is cut at {length} characters. Each attribute shows as
many different values as the table of attributes says; all later ones become `other` (errors: `_OTHER`), and so do all
names of a metric that would have more than {sets:,} combinations. Sums stay exact: only the names are folded, and
`agentbus.metrics.overflowed` counts how often. A value that is missing (no model, an empty name) is no attribute.

**Exemplars.** The points of histograms about a run, a model call or a tool call that is sampled link to the trace and
the span of that very run or call. What is not sampled, and what has its ids from a tracer that is not OpenTelemetry's
SDK, has none. The Collector shows them to Prometheus where `enable_open_metrics` is set, as in our
`collector-config.yaml`.

**Temporality.** Cumulative by default; `OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=DELTA` makes counters and
histograms tell what came since the last export. Levels stay cumulative.

**Relayed.** Of emitters without meters `otel-agentbus relay --metrics` counts the counters and histograms of this
page, from their events, exactly and each once whatever happens to the workers: the sums stand in the broker. Levels
and gauges say how a living process is, and stay out, and so do exemplars. A series is a service's, not a process's: of
a resource stays what the processes of a service share, and its `service.instance.id` is the relay's (`name/group`).
Bounds hold for each service and shard. These series are cumulative, always: where delta is preferred, the relay does
not start.

**Deployments.** The four events are paired by their `deploy_id`. Deployment frequency and change failure rate are
queries over `agentbus.deployments`, so that they outlive a restart; a deployment that completed, and turned out to have
failed later, counts in both. The time to restore runs from the first failure to the recovery. The lead time needs to
know when a commit was made: `connect(commit_times=...)` takes a function from the commit to its time (a datetime with a
time zone, or seconds since the epoch). What has begun, and of whose end this process has not heard, is open.

## Kinds

{kinds}

In Prometheus a counter's name ends with `_total`, a histogram is three metrics (`_bucket`, `_sum` and `_count`), and
seconds are in the name.
"""


def page() -> str:
    """The whole page."""
    kinds = "\n".join(f"* `{kind}`: {what}" for kind, what in KINDS.items())
    intro = INTRO.format(max_tokens=MAX_TOKENS, length=NAME_LENGTH, sets=SETS, kinds=kinds)
    return "\n".join([intro, *_sections(), *_buckets(), *_attributes()]).rstrip() + "\n"


def bounds() -> dict[str, int]:
    """How many values each attribute may have, as the bridge itself bounds them."""
    provider = MeterProvider(shutdown_on_exit=False)
    MetricsBridge(provider, conventions="both")
    found = instruments_of(provider).bounds
    provider.shutdown()
    found[names.RELAY_GROUP] = 1  # of each worker
    return found | {attribute: len(values) for attribute, values in FIXED.items()} | {names.REASON: vitals.REASONS}


def section_of(metric: Metric) -> Section:
    """The first section that has room for this metric."""
    return next(section for section in SECTIONS if metric.name.startswith(section.begins))


def _sections() -> Iterator[str]:
    for section in SECTIONS:
        yield f"## {section.title}\n"
        if section.note:
            yield f"{section.note}\n"
        rows = [_row(metric) for metric in TABLE if section_of(metric) is section]
        yield from _table(("metric", "kind, unit", "what it says", "attributes", "flavours", "in Prometheus"), rows)


def _row(metric: Metric) -> tuple[str, ...]:
    said = metric.description
    if metric in REASONS:
        said += f" Reasons: {_codes(REASONS[metric])}."
    buckets = next((f", buckets [{name}](#buckets)" for name, found in BUCKETS.items() if found == metric.buckets), "")
    return (
        f"`{metric.name}`",
        f"{metric.kind}, `{metric.unit}`{buckets}",
        said,
        _codes(metric.attributes) or "none",
        "all" if metric.flavours == instruments.ALL else _codes(metric.flavours),
        f"`{family(metric)}`",
    )


def _buckets() -> Iterator[str]:
    yield "## Buckets\n"
    units = {metric.buckets: metric.unit for metric in TABLE}
    rows = [
        (name, f"`{units[found]}`", ", ".join(f"{bound:.10g}" for bound in found)) for name, found in BUCKETS.items()
    ]
    yield from _table(("buckets", "unit", "upper bounds"), rows)


def _attributes() -> Iterator[str]:
    yield "## Attributes\n"
    limits = bounds()
    rows = []
    for attribute, meaning in MEANINGS.items():
        values = FIXED.get(attribute)
        rows.append((f"`{attribute}`", meaning + (f" {_codes(values)}." if values else ""), str(limits[attribute])))
    yield from _table(("attribute", "what it says", "values at most"), rows)


def _codes(values: Iterable[str]) -> str:
    return ", ".join(f"`{value}`" for value in values)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for row in (head, ("---",) * len(head), *rows):
        yield "| " + " | ".join(row) + " |"
    yield ""


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), "utf-8")
