"""The four dashboards. Each panel is a line (title, unit, what it asks) and a sentence for those who look at it."""

from __future__ import annotations

from otel_agentbus.telemetry import instruments as m
from otel_agentbus.telemetry.instruments import HEALTH, Metric
from otel_agentbus.telemetry.names import (
    AGENT_NAME,
    BUDGET,
    CACHE_TYPE,
    CHANNEL,
    COMPONENT,
    COST_SOURCE,
    DEPLOYMENT_STATUS,
    DIRECTION,
    ERROR_TYPE,
    OUTCOME,
    REASON,
    RELAY_GROUP,
    REQUEST_MODEL,
    THRESHOLD,
    TOKEN_TYPE,
    TOOL_NAME,
)

from .panels import Board, Row, Variable, days, known, lines, percentiles, ranking, stat
from .queries import (
    RANGE,
    Measure,
    Query,
    both,
    current,
    highest,
    per_day,
    per_minute,
    per_second,
    quantile,
    quantiles,
    share,
    total,
)

SERVICE = Variable("service", "Service", HEALTH["events.emitted"])
AGENT = Variable("agent", "Agent", m.AGENT_ACTIVE, AGENT_NAME)
MODEL = Variable("model", "Model", m.LLM_CALLS, REQUEST_MODEL)

#: The conventions' two flavours name these differently.
CALL_DURATION = (m.OPERATION_DURATION, m.INFERENCE_DURATION)
FIRST_CHUNK = (m.OPERATION_FIRST_CHUNK, m.INFERENCE_FIRST_CHUNK)

#: Of the types of tokens, the two that are no parts of another.
TOTALS = "input|output"

#: What becomes of events and spans, as `bus.health()` calls it.
EVENTS = ("events.emitted", "events.duplicate", "events.skipped", "events.late", "events.unknown")
SPANS = ("spans.exported", "spans.rejected", "spans.spooled", "spans.dropped", "spans.interrupted")

#: What the application's own cache was asked.
PROMPTS = both(total(m.CACHE_HITS), total(m.CACHE_MISSES))

FAILURES = total(m.DEPLOYMENTS, status="failed")


def failed(metric: Metric) -> Query:
    """The share of what ended in the chosen time that ended in an error; who was cancelled made none."""
    return share(total(metric, outcome="error"), total(metric))


def failing(metric: Metric, by: str) -> Query:
    """The share of what ends that ends in an error, as it changes."""
    return share(per_second(metric, by, outcome="error"), per_second(metric, by))


def by_error(measure: Measure) -> Query:
    """What failed in the chosen time, by the error's type."""
    return total(measure, ERROR_TYPE, part="_count", error_type=".+")


def health(*keys: str) -> list[Query]:
    """How fast the pipeline's own numbers rise, under the names that `bus.health()` has for them."""
    return [per_minute(HEALTH[key]).named(key) for key in keys]


def by_day(query: Query) -> Query:
    """A number of the chosen time, divided by its days."""
    return Query(f"{query.expr} / ($__range_s / 86400)", query.legend)


# fmt: off
OVERVIEW = Board(
    "overview", "AI agents",
    "What the agents do, use and cost, and whether they are well.",
    (SERVICE, AGENT, MODEL),
    (
        (
            stat("Agent runs", "short", total(m.AGENT_RUNS),
                 "Runs that ended in the chosen time, those of sub-agents among them."),
            stat("Model calls", "short", total(m.LLM_CALLS),
                 "Model calls that ended in the chosen time, whatever their outcome."),
            stat("Tool calls", "short", total(m.TOOL_CALLS),
                 "Tool calls that ended in the chosen time, whatever their outcome."),
            stat("Tokens", "short", total(m.TOKENS_USED, token_type=TOTALS),
                 "Input and output tokens of the chosen time; the other types are parts of these two."),
            known("Cost", "currencyUSD", total(m.COST_SPENT),
                  "Money spent in the chosen time; calls whose price is unknown are not in it."),
            stat("Active runs", "short", current(m.AGENT_ACTIVE),
                 "Runs that are going on now."),
        ),
        (
            known("Failed runs", "percentunit", failed(m.AGENT_RUNS),
                  "The share of the runs that ended in an error.", 0.05, 0.2),
            known("Failed model calls", "percentunit", failed(m.LLM_CALLS),
                  "The share of the model calls that failed.", 0.05, 0.2),
            known("Failed tool calls", "percentunit", failed(m.TOOL_CALLS),
                  "The share of the tool calls that failed.", 0.05, 0.2),
            known("Saved", "currencyUSD", total(m.COST_SAVED),
                  "What the answers of the application's own cache would have cost, at least."),
            stat("Unpriced calls", "short", total(m.UNPRICED_CALLS),
                 "Model calls whose cost nobody knows, without those that failed before they used anything."),
            known("Highest budget", "percentunit", highest(m.BUDGET_USED),
                  "How much is used of the budget that is nearest to its limit.", 0.8, 1),
        ),
        Row("Work"),
        (
            lines("Runs per minute", "short", per_minute(m.AGENT_RUNS, AGENT_NAME),
                  "Runs that ended, by agent."),
            lines("Active runs by agent", "short", current(m.AGENT_ACTIVE, AGENT_NAME),
                  "Runs that are going on, by agent."),
        ),
        (
            lines("Model calls per minute", "short", per_minute(m.LLM_CALLS, REQUEST_MODEL),
                  "Model calls that ended, by the model that was asked for."),
            lines("Tool calls per minute", "short", per_minute(m.TOOL_CALLS, TOOL_NAME),
                  "Tool calls that ended, by tool."),
        ),
        Row("Tokens and cost"),
        (
            lines("Tokens per minute", "short", per_minute(m.TOKENS_USED, TOKEN_TYPE),
                  "By type: cache_read and cache_write are parts of input, reasoning is a part of output."),
            lines("Cost per hour", "currencyUSD", per_second(m.COST_SPENT, REQUEST_MODEL).times(3600),
                  "What an hour costs at the rate of the moment, by model."),
        ),
        (
            ranking("Tokens by agent", "short", total(m.TOKENS_USED, AGENT_NAME, token_type=TOTALS),
                    "Input and output tokens of the chosen time."),
            ranking("Cost by agent", "currencyUSD", total(m.COST_SPENT, AGENT_NAME),
                    "Each model call under the agent that made it; sub-agents stand for themselves."),
            ranking("Budgets used", "percentunit", highest(m.BUDGET_USED, BUDGET),
                    "Each budget in the scope where most of it is used."),
        ),
        Row("Cache, errors and channels"),
        (
            known("Cache hits", "percentunit", share(total(m.CACHE_HITS), PROMPTS),
                  "The share of the prompts that the application's own cache answered."),
            stat("Tokens saved", "short", total(m.CACHE_SAVED),
                 "Tokens that hits of the application's own cache saved."),
            stat("Error events", "short", total(m.ERRORS),
                 "Errors that the application's components reported.", 1),
            stat("Heartbeats", "short", total(m.HEARTBEATS),
                 "Ticks of the runtime's keep-alive loop."),
        ),
        (
            lines("Cache hits per minute", "short", per_minute(m.CACHE_HITS, CACHE_TYPE),
                  "Answers that came from the application's own cache, by the cache's type."),
            lines("Messages per minute", "short", per_minute(m.CHANNEL_MESSAGES, CHANNEL, DIRECTION),
                  "Messages through each channel, by direction."),
        ),
    ),
)

COST = Board(
    "cost", "AI agents: cost",
    "Who spends what, on which model, on which day, and what the numbers rest on.",
    (SERVICE, AGENT, MODEL),
    (
        (
            known("Cost", "currencyUSD", total(m.COST_SPENT),
                  "Money spent in the chosen time; calls whose price is unknown are not in it."),
            known("Cost per day", "currencyUSD", by_day(total(m.COST_SPENT)),
                  "The cost of the chosen time, divided by its days."),
            known("Saved", "currencyUSD", total(m.COST_SAVED),
                  "What the answers of the application's own cache would have cost, at least."),
            known("Unpriced calls", "percentunit", share(total(m.UNPRICED_CALLS), total(m.LLM_CALLS)),
                  "The share of the model calls of which nobody knows what they cost.", 0.1, 0.3),
            stat("Told twice", "short", total(m.CALLS_DUPLICATE),
                 "Model calls that were told of again, and were not counted again."),
            stat("Totals that differ", "short", total(m.USAGE_MISMATCH),
                 "Runs whose producer's own totals differ from the sum of their model calls.", 1),
        ),
        Row("Day by day"),
        (
            days("Cost by day and model", "currencyUSD", per_day(m.COST_SPENT, REQUEST_MODEL),
                 "A bar for each day; today's still grows. Choose a time of several days."),
            days("Cost by day and agent", "currencyUSD", per_day(m.COST_SPENT, AGENT_NAME),
                 "A bar for each day; today's still grows. Choose a time of several days."),
        ),
        Row("In the chosen time"),
        (
            ranking("Cost by agent", "currencyUSD", total(m.COST_SPENT, AGENT_NAME),
                    "Each model call under the agent that made it; sub-agents stand for themselves."),
            ranking("Cost by model", "currencyUSD", total(m.COST_SPENT, REQUEST_MODEL),
                    "By the model that was asked for."),
            ranking("Cost by source of the price", "currencyUSD", total(m.COST_SPENT, COST_SOURCE),
                    "reported by the provider, override from the price file, or priced by the public list."),
        ),
        (
            ranking("Tokens by type", "short", total(m.TOKENS_USED, TOKEN_TYPE),
                    "cache_read and cache_write are parts of input, reasoning is a part of output: do not add them."),
            ranking("Tokens by model", "short", total(m.TOKENS_USED, REQUEST_MODEL, token_type=TOTALS),
                    "Input and output tokens."),
            ranking("Model calls by model", "short", total(m.LLM_CALLS, REQUEST_MODEL),
                    "Model calls that ended, whatever their outcome."),
        ),
        Row("What the numbers rest on"),
        (
            ranking("Unpriced calls by reason", "short", total(m.UNPRICED_CALLS, REASON),
                    "`otel-agentbus doctor` says which models these are, and what helps."),
            ranking("Unpriced calls by model", "short", total(m.UNPRICED_CALLS, REQUEST_MODEL),
                    "A price file (AGENTBUS_PRICES) can give them a price."),
            ranking("Saved by model", "currencyUSD", total(m.COST_SAVED, REQUEST_MODEL),
                    "What cached answers would have cost, at least."),
        ),
        (
            ranking("Told twice, by what gave it away", "short", total(m.CALLS_DUPLICATE, REASON),
                    "Where a framework and its provider both tell of a call, it counts once."),
            ranking("Totals that differ, by agent", "short", total(m.USAGE_MISMATCH, AGENT_NAME, REASON),
                    "The sum of the model calls is what counts; the producer's own totals are only compared."),
            ranking("Thresholds reached", "short", total(m.BUDGET_THRESHOLDS, BUDGET, THRESHOLD),
                    "How often a threshold of a budget was reached in the chosen time."),
        ),
    ),
    since="now-7d", refresh="1m",
)

LATENCY = Board(
    "latency", "AI agents: latency and errors",
    "How long agents, models and tools take, and how they end. The points among the percentiles lead to traces.",
    (SERVICE, AGENT, MODEL),
    (
        (
            known("Agent runs, p95", "s", quantile(0.95, m.AGENT_DURATION, time=RANGE),
                  "95 % of the runs of the chosen time were faster."),
            known("Model calls, p95", "s", quantile(0.95, CALL_DURATION, time=RANGE),
                  "95 % of the model calls of the chosen time were faster."),
            known("First chunk, p95", "s", quantile(0.95, FIRST_CHUNK, time=RANGE),
                  "95 % of the streams of the chosen time began sooner."),
            known("Tool calls, p95", "s", quantile(0.95, m.TOOL_DURATION, time=RANGE),
                  "95 % of the tool calls of the chosen time were faster."),
        ),
        Row("Latency"),
        (
            lines("Agent runs", "s", quantiles(m.AGENT_DURATION),
                  "Duration of the runs that ended."),
            lines("Model calls", "s", quantiles(CALL_DURATION),
                  "Duration of the model calls, of streams up to their end."),
        ),
        (
            lines("Time to the first chunk", "s", quantiles(FIRST_CHUNK),
                  "Of the model calls that stream."),
            lines("Tool calls", "s", quantiles(m.TOOL_DURATION),
                  "Duration of the tool calls."),
        ),
        (
            lines("Agent runs by agent", "s", quantile(0.95, m.AGENT_DURATION, AGENT_NAME),
                  "95 % of the agent's runs are faster."),
            lines("Model calls by model", "s", quantile(0.95, CALL_DURATION, REQUEST_MODEL),
                  "95 % of the model's calls are faster."),
            lines("Tool calls by tool", "s", quantile(0.95, m.TOOL_DURATION, TOOL_NAME),
                  "95 % of the tool's calls are faster."),
        ),
        Row("Errors"),
        (
            lines("Error rate by agent", "percentunit", failing(m.AGENT_RUNS, AGENT_NAME),
                  "The share of the runs that end in an error."),
            lines("Error rate by model", "percentunit", failing(m.LLM_CALLS, REQUEST_MODEL),
                  "The share of the model calls that fail."),
            lines("Error rate by tool", "percentunit", failing(m.TOOL_CALLS, TOOL_NAME),
                  "The share of the tool calls that fail."),
        ),
        (
            ranking("Failed runs by error", "short", by_error(m.AGENT_DURATION),
                    "By the error's type."),
            ranking("Failed model calls by error", "short", by_error(CALL_DURATION),
                    "By the error's type."),
            ranking("Failed tool calls by error", "short", by_error(m.TOOL_DURATION),
                    "By the error's type."),
            lines("Error events per minute", "short", per_minute(m.ERRORS, COMPONENT),
                  "Errors that the application's components reported, by component."),
        ),
        Row("Outcomes"),
        (
            ranking("Runs by outcome", "short", total(m.AGENT_RUNS, OUTCOME),
                    "cancelled is no error; interrupted is a run of whose end nobody told."),
            ranking("Model calls by outcome", "short", total(m.LLM_CALLS, OUTCOME),
                    "cancelled is, among others, a stream that its reader left."),
            ranking("Tool calls by outcome", "short", total(m.TOOL_CALLS, OUTCOME),
                    "cancelled is a call for whose result nobody waited."),
        ),
    ),
)

DELIVERY = Board(
    "delivery", "AI agents: delivery",
    "Whether telemetry arrives in full, and how the application itself is delivered (DORA).",
    (SERVICE,),
    (
        Row("Delivery health"),
        (
            stat("Events emitted", "short", total(HEALTH["events.emitted"]),
                 "What was told in the chosen time."),
            stat("Events dropped", "short", total(HEALTH["events.dropped"]),
                 "Events that became no telemetry.", 1),
            stat("Spans exported", "short", total(HEALTH["spans.exported"]),
                 "Spans that the endpoint took."),
            stat("Spans lost", "short", both(total(HEALTH["spans.dropped"]), total(HEALTH["spans.rejected"])),
                 "Spans that were dropped, or refused by the endpoint.", 1),
            stat("Spans spooled", "short", total(HEALTH["spans.spooled"]),
                 "Spans kept on disk to be sent again, because the endpoint did not take them.", 1),
            stat("Spans open", "short", current(m.SPANS_OPEN),
                 "Spans that have begun and not ended."),
        ),
        (
            lines("Events", "short", health(*EVENTS),
                  "Per minute: told; told again; never come; come too late; of a kind that is not known."),
            lines("Events dropped", "short", per_minute(HEALTH["events.dropped"], REASON),
                  "Per minute, by reason."),
            lines("Handler failures", "short", health("handler.failures"),
                  "Per minute: exceptions that the application's own event handlers raised."),
        ),
        (
            lines("Spans", "short", health(*SPANS),
                  "Per minute: taken and refused by the endpoint; kept on disk; lost; closed without an end event."),
            lines("Open spans", "short", current(m.SPANS_OPEN),
                  "Spans that have begun and not ended; a line that only rises is a leak."),
            lines("Measurements", "short",
                  [per_minute(m.DISCARDED, REASON), per_minute(m.OVERFLOWED).named("counted under 'other'")],
                  "Per minute: not recorded, by reason; and those whose names were too many to be told apart."),
        ),
        Row("Relay workers"),
        (
            lines("Relayed", "short",
                  [per_minute(m.RELAY["events"]).named("events"), per_minute(m.RELAY["spans"]).named("spans")],
                  "Per minute: events that workers applied, and spans of them that the endpoint took."),
            lines("Waiting in the broker", "short", highest(m.RELAY["lag"], RELAY_GROUP),
                  "Events that the workers of a group have not acknowledged; a line that rises wants more workers."),
            lines("Open runs in the broker", "short", current(m.RELAY["open_runs"], RELAY_GROUP),
                  "Runs that have begun and not ended."),
            lines("Lost in the broker", "short", highest(m.RELAY["trimmed"], RELAY_GROUP),
                  "Events that the broker's bound took away before a group had read them, since it began."),
        ),
        Row("Deployments (DORA)"),
        (
            stat("Deployments per day", "short", by_day(total(m.DEPLOYMENTS, status="succeeded")),
                 "Deployment frequency: those that succeeded in the chosen time, divided by its days."),
            known("Change failure rate", "percentunit", share(FAILURES, total(m.DEPLOYMENTS)),
                  "The share of the deployments that failed.", 0.15, 0.3),
            known("Time to restore, median", "s", quantile(0.5, m.RECOVERY_TIME, time=RANGE),
                  "From a failed deployment to the recovery."),
            known("Lead time, median", "s", quantile(0.5, m.DEPLOYMENT_LEAD_TIME, time=RANGE),
                  "From a commit to the deployment that has it."),
            stat("Open deployments", "short", current(m.DEPLOYMENT_OPEN),
                 "Deployments that have started, and of whose end nobody told."),
            stat("Open failures", "short", current(m.RECOVERY_OPEN),
                 "Deployments that have failed, and from which nobody recovered.", 1),
        ),
        (
            days("Deployments by day", "short", per_day(m.DEPLOYMENTS, DEPLOYMENT_STATUS),
                 "A bar for each day; today's still grows. Choose a time of several days."),
            ranking("Deployments by status", "short", total(m.DEPLOYMENTS, DEPLOYMENT_STATUS),
                    "Deployments that ended in the chosen time."),
        ),
        (
            percentiles("Duration of a deployment", "s", quantiles(m.DEPLOYMENT_DURATION, RANGE),
                        "From its start to its end, whether it succeeded or failed."),
            percentiles("Time to restore", "s", quantiles(m.RECOVERY_TIME, RANGE),
                        "From a failed deployment to the recovery."),
            percentiles("Lead time", "s", quantiles(m.DEPLOYMENT_LEAD_TIME, RANGE),
                        "From a commit to the deployment that has it."),
        ),
    ),
    since="now-7d", refresh="1m",
)
# fmt: on

BOARDS = (OVERVIEW, COST, LATENCY, DELIVERY)
