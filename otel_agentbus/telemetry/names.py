"""The one table of names: attributes, span events and providers, for each flavour of the conventions.

Flavour "1.41" is the registry of OpenTelemetry's core conventions v1.41.0, the last that has the GenAI names, and what
backends read today. Flavour "2026-10" is the GenAI repository's main branch of October 2026. Names of ours stand under
`agentbus.`; where a name of theirs exists, it is theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, get_args

Flavour = Literal["1.41", "2026-10", "both"]
FLAVOURS: Final[tuple[str, ...]] = get_args(Flavour)

#: What the spans' scope says about its names; the GenAI repository has published no schema yet.
SCHEMA_URLS: Final[Mapping[str, str]] = {"1.41": "https://opentelemetry.io/schemas/1.41.0"}

# -- attributes that both flavours have -----------------------------------------------------------------------------
OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
STREAM: Final = "gen_ai.request.stream"
RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
CONVERSATION: Final = "gen_ai.conversation.id"
AGENT_NAME: Final = "gen_ai.agent.name"
TOOL_NAME: Final = "gen_ai.tool.name"
TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
TOOL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
TOOL_RESULT: Final = "gen_ai.tool.call.result"
SYSTEM_INSTRUCTIONS: Final = "gen_ai.system_instructions"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
TOKEN_TYPE: Final = "gen_ai.token.type"
TOKEN_MODALITY: Final = "gen_ai.token.modality"
OPENAI_REQUEST_TIER: Final = "openai.request.service_tier"
OPENAI_RESPONSE_TIER: Final = "openai.response.service_tier"
ERROR_TYPE: Final = "error.type"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
DEPLOYMENT_ID: Final = "deployment.id"
DEPLOYMENT_STATUS: Final = "deployment.status"
RELAY_GROUP: Final = "agentbus.relay.group"
REVISION: Final = "vcs.ref.head.revision"

# -- attributes that the flavours name differently ------------------------------------------------------------------
CACHE_WRITE_TOKENS: Final[Mapping[str, tuple[str, ...]]] = {
    "1.41": ("gen_ai.usage.cache_creation.input_tokens",),
    "2026-10": ("gen_ai.usage.cache_write.input_tokens",),
    "both": ("gen_ai.usage.cache_creation.input_tokens", "gen_ai.usage.cache_write.input_tokens"),
}


def _modalities() -> dict[str, str]:
    spellings = {
        "gen_ai.usage.{}.input_tokens": ("{}.input_tokens", "{}_input_tokens", "input_{}_tokens"),
        "gen_ai.usage.{}.output_tokens": ("{}.output_tokens", "{}_output_tokens", "output_{}_tokens"),
        "gen_ai.usage.{}.cache_read.input_tokens": (
            "{}.cache_read.input_tokens",
            "{}_cache_read_input_tokens",
            "cache_{}_read_tokens",
        ),
    }
    return {
        key.format(modality): attribute.format(modality)
        for modality in ("audio", "image", "text")
        for attribute, keys in spellings.items()
        for key in keys
    }


#: Keys of `LlmResponse.usage` that the flavour 2026-10 has an attribute for.
MODALITY_TOKENS: Final[Mapping[str, str]] = _modalities()

# -- attributes of ours ---------------------------------------------------------------------------------------------
INVOCATION_ID: Final = "agentbus.invocation.id"
INVOCATION_PARENT: Final = "agentbus.invocation.parent_id"
INVOCATION_ROOT: Final = "agentbus.invocation.root_id"
INVOCATION_PATH: Final = "agentbus.invocation.path"
ATTEMPT: Final = "agentbus.attempt"
OUTCOME: Final = "agentbus.outcome"
CHANNEL: Final = "agentbus.channel"
DIRECTION: Final = "agentbus.channel.direction"
COST: Final = "agentbus.cost.usd"
COST_STATUS: Final = "agentbus.cost.status"
COST_SOURCE: Final = "agentbus.cost.source"
COST_SAVED: Final = "agentbus.cost.saved_usd"
#: What gave away that a model call was told of before; its counts stand on the span that told of them first.
DUPLICATE: Final = "agentbus.duplicate"
#: Which totals of an agent's producer differ from the sums of the run's calls.
MISMATCH: Final = "agentbus.usage.mismatch"
COMPONENT: Final = "agentbus.component"
BUDGET: Final = "agentbus.budget.name"
THRESHOLD: Final = "agentbus.budget.threshold"
REASON: Final = "agentbus.reason"
CACHE_TYPE: Final = "agentbus.cache.type"
TOKENS_SAVED: Final = "agentbus.cache.tokens_saved"
MESSAGES_COUNT: Final = "agentbus.request.messages_count"
SERVICE_TIER: Final = "agentbus.response.service_tier"
#: Further counts of a model call under the provider's own names; on model spans only.
CALL_USAGE: Final = "agentbus.llm.usage."
#: The sums over the model calls of a run; on agent spans only, so that no sum over spans counts a call twice.
RUN_USAGE: Final = "agentbus.usage."
#: The totals that the producer of an `AgentEnd` gave itself, for comparison.
REPORTED: Final = "agentbus.reported."
#: The payload of a domain event, one attribute for each of its keys.
DATA: Final = "agentbus.data."
#: How many attributes of the start event, and of the end event, found no room on the span.
DROPPED_AT_START: Final = "agentbus.dropped_attributes.start"
DROPPED_AT_END: Final = "agentbus.dropped_attributes.end"
#: The key of an event's attributes under which what user code did to its current span travels.
SPAN_DATA: Final = "agentbus.span"

#: What the attributes of an event may not say, because the lineage, the outcome and the kind of the span do.
RESERVED: Final = frozenset(
    (
        *(INVOCATION_ID, INVOCATION_PARENT, INVOCATION_ROOT, INVOCATION_PATH, ATTEMPT, OUTCOME),
        *(SPAN_DATA, OPERATION, ERROR_TYPE, DROPPED_AT_START, DROPPED_AT_END),
    )
)

# -- span events ----------------------------------------------------------------------------------------------------
EXCEPTION_EVENT: Final = "exception"
DETAILS_EVENT: Final = "gen_ai.client.inference.operation.details"

# -- operations and providers ---------------------------------------------------------------------------------------
INFERENCE: Final = frozenset(("chat", "generate_content", "text_completion"))

PROVIDERS: Final = frozenset(
    (
        *("openai", "anthropic", "cohere", "deepseek", "groq", "mistral_ai", "moonshot_ai", "perplexity", "x_ai"),
        *("aws.bedrock", "azure.ai.inference", "azure.ai.openai", "ibm.watsonx.ai"),
        *("gcp.gemini", "gcp.gen_ai", "gcp.vertex_ai"),
    )
)

#: Other names of the same providers: the conventions' own older ones, and those of frameworks. What is ambiguous
#: ("azure" may be either of two) is not here and stays as it is given.
PROVIDER_ALIASES: Final[Mapping[str, str]] = {
    "vertex_ai": "gcp.vertex_ai",
    "vertexai": "gcp.vertex_ai",
    "google-vertex": "gcp.vertex_ai",
    "google_vertexai": "gcp.vertex_ai",
    "google-cloud": "gcp.vertex_ai",
    "gemini": "gcp.gemini",
    "google-gla": "gcp.gemini",
    "google": "gcp.gen_ai",
    "google_genai": "gcp.gen_ai",
    "az.ai.inference": "azure.ai.inference",
    "az.ai.openai": "azure.ai.openai",
    "azure_openai": "azure.ai.openai",
    "azure-openai": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "aws_bedrock": "aws.bedrock",
    "amazon_bedrock": "aws.bedrock",
    "bedrock_converse": "aws.bedrock",
    "xai": "x_ai",
    "mistral": "mistral_ai",
    "mistralai": "mistral_ai",
    "watsonx": "ibm.watsonx.ai",
    "moonshot": "moonshot_ai",
    "moonshotai": "moonshot_ai",
}

# -- request parameters ---------------------------------------------------------------------------------------------
Rule = Literal["double", "int", "text", "texts", "top_k", "choices", "output", "tier"]


class Parameter(NamedTuple):
    """One request parameter: its attribute, how its value is read, and whether flavour 1.41 lacks it."""

    attribute: str
    rule: Rule
    newer: bool = False


_PARAMETERS: Final[Mapping[str, tuple[Parameter, tuple[str, ...]]]] = {
    "temperature": (Parameter("gen_ai.request.temperature", "double"), ()),
    "top_p": (Parameter("gen_ai.request.top_p", "double"), ()),
    "top_k": (Parameter("gen_ai.request.top_k", "top_k"), ()),
    "max_tokens": (
        Parameter("gen_ai.request.max_tokens", "int"),
        ("max_output_tokens", "max_completion_tokens", "maxTokens"),
    ),
    "frequency_penalty": (Parameter("gen_ai.request.frequency_penalty", "double"), ()),
    "presence_penalty": (Parameter("gen_ai.request.presence_penalty", "double"), ()),
    "stop_sequences": (Parameter("gen_ai.request.stop_sequences", "texts"), ("stop",)),
    "seed": (Parameter("gen_ai.request.seed", "int"), ()),
    "choice_count": (Parameter("gen_ai.request.choice.count", "choices"), ("choice.count", "n", "candidate_count")),
    "output_type": (Parameter("gen_ai.output.type", "output"), ("output.type", "response_format")),
    "encoding_formats": (Parameter("gen_ai.request.encoding_formats", "texts"), ("encoding_format",)),
    "dimensions": (Parameter("gen_ai.embeddings.dimension.count", "int"), ()),
    "service_tier": (Parameter(OPENAI_REQUEST_TIER, "tier"), ()),
    "reasoning_effort": (
        Parameter("gen_ai.request.reasoning.level", "text", newer=True),
        ("reasoning.level", "reasoning_level"),
    ),
    "previous_response_id": (
        Parameter("gen_ai.request.previous_response.id", "text", newer=True),
        ("previous_response.id",),
    ),
}

#: What may be said of a request; everything else in `LlmRequest.parameters` stays home, for it may be content.
PARAMETERS: Final[Mapping[str, Parameter]] = {
    spelling: parameter for key, (parameter, others) in _PARAMETERS.items() for spelling in (key, *others)
}

#: The domain events that the adapters' forwarders make, and the keys of their data that quote content.
FORWARDED = frozenset(("llm_response", "llm_tool_call", "llm_tool_result", "llm_error"))
FORWARDED_CONTENT = frozenset(("args", "result", "error"))
