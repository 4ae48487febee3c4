"""The one table of instruments: what is measured, in which unit, with which buckets and under which attributes.

The GenAI names and buckets are the conventions' own; what stands under `agentbus.` is ours. `docs/metrics.md` is made
from this table, and a test holds it against what is really emitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from . import names

Kind = Literal["counter", "level", "gauge", "histogram"]

#: In which flavours of the conventions an instrument is emitted.
OLD: Final = ("1.41", "both")
NEW: Final = ("2026-10", "both")
ALL: Final = ("1.41", "2026-10", "both")


class Metric(NamedTuple):
    """One instrument: what it is, its unit, what it measures, its attributes and, for histograms, its buckets.

    A counter only rises; a level falls, too. Both are sums over all processes, while a gauge is not.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    flavours: tuple[str, ...] = ALL


CALL_SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
RUN_SECONDS: Final = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6)
DEPLOY_SECONDS: Final = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0)
#: From a commit to its deployment: a minute to a month.
LEAD_SECONDS: Final = tuple(
    60.0 * minutes for minutes in (1, 5, 15, 30, 60, 120, 240, 480, 1440, 2880, 5760, 10080, 20160, 43200)
)
TOKENS: Final = tuple(float(4**power) for power in range(14))
CALLS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)

_M = Metric
_CALL = (names.OPERATION, names.PROVIDER, names.REQUEST_MODEL, names.RESPONSE_MODEL)
_SPENDER = (names.PROVIDER, names.REQUEST_MODEL, names.AGENT_NAME)

# -- model calls, in flavour 1.41 -------------------------------------------------------------------------------------
TOKEN_USAGE = _M(
    "gen_ai.client.token.usage", "histogram", "{token}", "Number of input and output tokens used.",
    (*_CALL, names.TOKEN_TYPE), TOKENS, OLD,
)  # fmt: skip
OPERATION_DURATION = _M(
    "gen_ai.client.operation.duration", "histogram", "s", "GenAI operation duration.",
    (*_CALL, names.ERROR_TYPE), CALL_SECONDS,
)  # fmt: skip
OPERATION_FIRST_CHUNK = _M(
    "gen_ai.client.operation.time_to_first_chunk", "histogram", "s", "Time to receive the first chunk.",
    _CALL, CALL_SECONDS,
)  # fmt: skip

# -- model calls, in flavour 2026-10 ----------------------------------------------------------------------------------
INFERENCE_DURATION = _M(
    "gen_ai.client.inference.duration", "histogram", "s", "Duration of a model call.",
    (*_CALL, names.ERROR_TYPE), CALL_SECONDS, NEW,
)  # fmt: skip
INFERENCE_FIRST_CHUNK = _M(
    "gen_ai.client.inference.time_to_first_chunk", "histogram", "s", "Time to receive the first chunk.",
    _CALL, CALL_SECONDS, NEW,
)  # fmt: skip
INFERENCE_TOKENS: Final[Mapping[str, Metric]] = {
    kind: _M(
        f"gen_ai.client.inference.operation.{kind}_tokens", "histogram", "{token}",
        f"Number of {kind} tokens used by a model call.", _CALL, TOKENS, NEW,
    )
    for kind in ("input", "output")
}  # fmt: skip
INFERENCE_USAGE: Final[Mapping[str, Metric]] = {
    kind: _M(
        f"gen_ai.client.inference.usage.{name}_tokens", "counter", "{token}", description,
        (*_CALL, names.TOKEN_MODALITY), (), NEW,
    )
    for kind, name, description in (
        ("input", "input", "Number of input tokens used, cached ones included."),
        ("output", "output", "Number of output tokens used, reasoning included."),
        ("cache_read", "cache_read.input", "Number of input tokens that the provider's cache had."),
        ("cache_write", "cache_write.input", "Number of input tokens that were written to the provider's cache."),
        ("reasoning", "reasoning.output", "Number of output tokens used for reasoning."),
    )
}  # fmt: skip
AGENT_INFERENCE_CALLS = _M(
    "gen_ai.invoke_agent.inference_calls", "histogram", "{inference_call}",
    "Model calls of an agent run itself, failed ones too.", (names.AGENT_NAME,), CALLS, NEW,
)  # fmt: skip
AGENT_TOOL_CALLS = _M(
    "gen_ai.invoke_agent.tool_calls", "histogram", "{tool_call}",
    "Tool calls of an agent run itself, failed ones too.", (names.AGENT_NAME,), CALLS, NEW,
)  # fmt: skip

# -- agents and tools, in every flavour -------------------------------------------------------------------------------
AGENT_DURATION = _M(
    "gen_ai.invoke_agent.duration", "histogram", "s", "Duration of an agent run.",
    (names.AGENT_NAME, names.REQUEST_MODEL, names.ERROR_TYPE), RUN_SECONDS,
)  # fmt: skip
TOOL_DURATION = _M(
    "gen_ai.execute_tool.duration", "histogram", "s", "Duration of a tool call.",
    (names.TOOL_NAME, names.AGENT_NAME, names.ERROR_TYPE), CALL_SECONDS,
)  # fmt: skip

# -- ours -------------------------------------------------------------------------------------------------------------
TOKENS_USED = _M(
    "agentbus.tokens.used", "counter", "{token}",
    "Tokens used, by type. Only input + output are totals: cache_read and cache_write are parts of input, and "
    "reasoning is a part of output, so adding them counts tokens twice.",
    (*_SPENDER, names.TOKEN_TYPE),
)  # fmt: skip
COST_SPENT = _M(
    "agentbus.cost.spent", "counter", "{USD}", "What the model calls cost, by the source of the price.",
    (*_SPENDER, names.COST_SOURCE),
)  # fmt: skip
COST_SAVED = _M(
    "agentbus.cost.saved", "counter", "{USD}",
    "What answers from the application's own cache would have cost; at least, where it is not known in full.",
    _SPENDER,
)  # fmt: skip
UNPRICED_CALLS = _M(
    "agentbus.cost.unpriced_calls", "counter", "{call}",
    "Model calls whose cost is unknown, by reason; calls that failed before they used anything are none.",
    (*_SPENDER, names.REASON),
)  # fmt: skip
LLM_CALLS = _M(
    "agentbus.llm.calls", "counter", "{call}", "Model calls that ended, by outcome.", (*_SPENDER, names.OUTCOME)
)
CALLS_DUPLICATE = _M(
    "agentbus.calls.duplicate", "counter", "{call}",
    "Model calls that were told of again, and not counted again, by what gave them away.", (names.REASON,),
)  # fmt: skip
USAGE_MISMATCH = _M(
    "agentbus.usage.mismatch", "counter", "{run}",
    "Agent runs whose producer's own totals differ from the sum of their model calls, by what differs.",
    (names.AGENT_NAME, names.REASON),
)  # fmt: skip
TOOL_CALLS = _M(
    "agentbus.tool.calls", "counter", "{call}", "Tool calls that ended, by outcome.",
    (names.TOOL_NAME, names.AGENT_NAME, names.OUTCOME),
)  # fmt: skip
AGENT_RUNS = _M(
    "agentbus.agent.runs", "counter", "{run}", "Agent runs that ended, by outcome.", (names.AGENT_NAME, names.OUTCOME)
)
AGENT_ACTIVE = _M("agentbus.agent.active", "level", "{run}", "Agent runs that are going on.", (names.AGENT_NAME,))
BUDGET_THRESHOLDS = _M(
    "agentbus.budget.thresholds", "counter", "{threshold}", "Thresholds of budgets that were reached.",
    (names.BUDGET, names.THRESHOLD),
)  # fmt: skip
BUDGET_USED = _M(
    "agentbus.budget.used", "gauge", "1", "The share of a budget that is used, in the scope where it is highest.",
    (names.BUDGET,),
)  # fmt: skip
CACHE_HITS = _M(
    "agentbus.cache.hits", "counter", "{hit}", "Answers that came from the application's own cache.",
    (names.CACHE_TYPE,),
)  # fmt: skip
CACHE_MISSES = _M(
    "agentbus.cache.misses", "counter", "{miss}", "Prompts that were not in the application's own cache.",
    (names.CACHE_TYPE,),
)  # fmt: skip
CACHE_SAVED = _M(
    "agentbus.cache.tokens_saved", "counter", "{token}",
    "Tokens that hits of the application's own cache saved.", (names.CACHE_TYPE,),
)  # fmt: skip
ERRORS = _M("agentbus.errors", "counter", "{error}", "Error events, by component.", (names.COMPONENT,))
CHANNEL_MESSAGES = _M(
    "agentbus.channel.messages", "counter", "{message}", "Messages through a channel, by direction.",
    (names.CHANNEL, names.DIRECTION),
)  # fmt: skip
HEARTBEATS = _M("agentbus.heartbeats", "counter", "{heartbeat}", "Ticks of the runtime's keep-alive loop.")

# -- deployments ------------------------------------------------------------------------------------------------------
DEPLOYMENTS = _M(
    "agentbus.deployments", "counter", "{deployment}", "Deployments that ended, by status.", (names.DEPLOYMENT_STATUS,)
)
DEPLOYMENT_OPEN = _M(
    "agentbus.deployment.open", "level", "{deployment}", "Deployments that have started, and of whose end nobody told."
)
DEPLOYMENT_DURATION = _M(
    "agentbus.deployment.duration", "histogram", "s", "Duration of a deployment.",
    (names.DEPLOYMENT_STATUS,), DEPLOY_SECONDS,
)  # fmt: skip
DEPLOYMENT_LEAD_TIME = _M(
    "agentbus.deployment.lead_time", "histogram", "s", "From a commit to the deployment that has it.", (), LEAD_SECONDS
)
RECOVERY_TIME = _M(
    "agentbus.recovery.time", "histogram", "s", "From a failed deployment to the recovery.", (), DEPLOY_SECONDS
)
RECOVERY_OPEN = _M(
    "agentbus.recovery.open", "level", "{deployment}", "Deployments that have failed, and from which nobody recovered."
)

# -- our own health ---------------------------------------------------------------------------------------------------
DISCARDED = _M(
    "agentbus.metrics.discarded", "counter", "{measurement}", "Measurements not recorded, by reason.", (names.REASON,)
)
OVERFLOWED = _M(
    "agentbus.metrics.overflowed", "counter", "{measurement}", "Measurements whose names were folded into 'other'."
)
#: For what reasons spans are lost: by the processor, by the spool, by an exporter that has none.
SPAN_LOSSES: Final = (
    *("queue_full", "spill_failed", "exit_timeout", "already_shutdown", "failed"),
    *("encoding", "spool_full", "spool_age", "spool_error", "spool_removed", "spool_corrupt", "spool_off"),
    "dead_letter_failed",
)
SPANS_OPEN = _M("agentbus.spans.open", "level", "{span}", "Spans that are open.")
HEALTH: Final[Mapping[str, Metric]] = {
    key: _M(f"agentbus.{key}", "counter", unit, description, attributes)
    for key, unit, description, attributes in (
        ("events.emitted", "{event}", "Events emitted.", ()),
        ("events.dropped", "{event}", "Events dropped before they became telemetry.", (names.REASON,)),
        ("events.duplicate", "{event}", "Events that had been applied before.", ()),
        ("events.skipped", "{event}", "Events that never came.", ()),
        ("events.late", "{event}", "Events that came after their run was judged.", ()),
        ("events.unknown", "{event}", "Events of a kind that this version does not know.", ()),
        ("handler.failures", "{failure}", "Exceptions raised by event handlers.", ()),
        ("spans.exported", "{span}", "Spans that the endpoint took.", ()),
        ("spans.rejected", "{span}", "Spans that the endpoint refused for good.", ()),
        ("spans.spooled", "{span}", "Spans kept on disk to be sent again.", ()),
        ("spans.dropped", "{span}", "Spans that were lost, by reason.", (names.REASON,)),
        ("spans.interrupted", "{span}", "Spans closed without an end event.", ()),
    )
}

# -- relay workers ----------------------------------------------------------------------------------------------------
_RELAY: Final[tuple[tuple[str, Kind, str, str], ...]] = (
    ("events", "counter", "{event}", "Events that relay workers read from the broker and applied."),
    ("spans", "counter", "{span}", "Spans of relay workers that the endpoint took."),
    ("open_runs", "level", "{run}", "Runs that are open in the shards that the worker owns."),
    ("lag", "gauge", "{event}", "Events in the broker that the group has not acknowledged, of all shards."),
    (
        "trimmed",
        "gauge",
        "{event}",
        "Events that the broker had to drop before the group read them, so far, of all shards.",
    ),
)
#: By the names of `relay.worker_metrics.RelayNumbers`.
RELAY: Final[Mapping[str, Metric]] = {
    key: _M(f"agentbus.relay.{key}", kind, unit, description, (names.RELAY_GROUP,))
    for key, kind, unit, description in _RELAY
}
