"""What a span says of a model call: who answered, what it used and cost, how it ended, in every flavour's words."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan

from .kinds import OPENINFERENCE, OPERATION, REQUEST_TYPE

Said = Mapping[str, Any]

_INPUT: Final = (
    *("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"),
    *("llm.token_count.prompt", "llm.usage.prompt_tokens", "llm.usage.input_tokens"),
)
_OUTPUT: Final = (
    *("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens"),
    *("llm.token_count.completion", "llm.usage.completion_tokens", "llm.usage.output_tokens"),
)
_CACHE_READ: Final = (
    *("gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_read_input_tokens"),
    *("llm.token_count.prompt_details.cache_read", "llm.token_count.prompt_details.cache_input"),
    *("llm.usage.cache_read_input_tokens", "gen_ai.usage.details.cache_read_tokens"),
)
_CACHE_WRITE: Final = (
    *("gen_ai.usage.cache_creation.input_tokens", "gen_ai.usage.cache_write.input_tokens"),
    *("gen_ai.usage.cache_creation_input_tokens", "gen_ai.usage.cache_write_input_tokens"),
    *("llm.token_count.prompt_details.cache_write", "llm.usage.cache_creation_input_tokens"),
    "gen_ai.usage.details.cache_write_tokens",
)
_REASONING: Final = (
    *("gen_ai.usage.reasoning.output_tokens", "gen_ai.usage.reasoning_output_tokens", "gen_ai.usage.reasoning_tokens"),
    *("gen_ai.usage.experimental.reasoning_tokens", "gen_ai.usage.details.reasoning_tokens"),
    *("llm.token_count.completion_details.reasoning", "llm.usage.reasoning_tokens"),
)
_TOTAL: Final = ("gen_ai.usage.total_tokens", "llm.token_count.total", "llm.usage.total_tokens")
#: Counts that have no field of their own, under the names that our conventions know.
_FURTHER: Final[Mapping[str, str]] = {
    **{
        f"gen_ai.usage.{modality}.{count}": f"{modality}.{count}"
        for modality in ("text", "image", "audio")
        for count in ("input_tokens", "output_tokens", "cache_read.input_tokens")
    },
    "llm.token_count.prompt_details.audio": "audio.input_tokens",
    "llm.token_count.completion_details.audio": "audio.output_tokens",
}
_DETAILS: Final = "gen_ai.usage.details."
_RAW: Final = "gen_ai.usage.raw"
_COST: Final = (
    *("operation.cost", "llm.cost.total", "gen_ai.usage.cost", "gen_ai.usage.cost.amount", "gen_ai.usage.total_cost"),
    "gen_ai.cost.total_tokens",
)
_CURRENCY: Final = "gen_ai.usage.cost.currency"
_REQUEST_MODEL: Final = ("gen_ai.request.model", "llm.request.model_name", "llm.model_name", "embedding.model_name",
                         "reranker.model_name", "llm.request.model")  # fmt: skip
_RESPONSE_MODEL: Final = ("gen_ai.response.model", "llm.response.model_name", "llm.response.model")
_RESPONSE_ID: Final = ("gen_ai.response.id", "llm.response.id")
_TIER: Final = ("openai.response.service_tier", "gen_ai.openai.response.service_tier", "gen_ai.response.service_tier")
_STREAM: Final = ("gen_ai.request.stream", "gen_ai.is_streaming", "llm.is_streaming", "gen_ai.request.is_stream")
_FINISH: Final = ("gen_ai.response.finish_reasons", "llm.finish_reason", "gen_ai.completion.0.finish_reason",
                  "llm.response.finish_reason", "gen_ai.response.finish_reason")  # fmt: skip
_PARAMETERS: Final = ("gen_ai.request.", "llm.invocation_parameters", "embedding.invocation_parameters")
_NO_PARAMETERS: Final = frozenset(("gen_ai.request.model", *_STREAM))
#: Events that come with the first chunk of an answer.
_FIRST_CHUNK: Final = frozenset(("First Token Stream Event", "llm.content.completion.chunk"))

#: Older names of providers, and those of the pairs that OpenInference makes.
_PROVIDERS: Final[Mapping[str, str]] = {
    "vertex_ai": "gcp.vertex_ai",
    "vertexai": "gcp.vertex_ai",
    "gemini": "gcp.gemini",
    "google": "gcp.gen_ai",
    "google_genai": "gcp.gen_ai",
    "az.ai.inference": "azure.ai.inference",
    "az.ai.openai": "azure.ai.openai",
    "azure": "azure.ai.openai",
    "aws": "aws.bedrock",
    "bedrock": "aws.bedrock",
    "aws_bedrock": "aws.bedrock",
    "xai": "x_ai",
    "mistralai": "mistral_ai",
    "mistral": "mistral_ai",
    "watsonx": "ibm.watsonx.ai",
    "moonshot": "moonshot_ai",
    "gcp.vertex.agent": "gcp.gen_ai",
    # frameworks, which serve no model themselves
    "strands-agents": "",
    "microsoft.agent_framework": "",
    "langchain": "",
    "llamaindex": "",
    "crewai": "",
}
_PAIRS: Final[Mapping[tuple[str, str], str]] = {
    ("azure", "openai"): "azure.ai.openai",
    ("google", "vertexai"): "gcp.vertex_ai",
    ("google", "gemini"): "gcp.gemini",
}
_OPERATIONS: Final[Mapping[str, str]] = {
    "EMBEDDING": "embeddings",
    "embedding": "embeddings",
    "completion": "text_completion",
    "rerank": "rerank",
    "chat": "chat",
    "LLM": "chat",
}
#: The id at the beginning of a provider's answer, as OpenInference keeps it; what a model has written looks otherwise.
_ANSWER_ID: Final = re.compile(r'\{\s*"id":\s*"((?:chatcmpl|cmpl|resp|msg|gen)[-_][\w-]{1,200})"', re.ASCII)
_MS: Final = "gen_ai.server.time_to_first_token"


def first(said: Said, keys: Sequence[str]) -> Any:
    """The first of these that is said."""
    for key in keys:
        value = said.get(key)
        if value is not None:
            return value
    return None


def text(value: object) -> str | None:
    """A text that says something."""
    return value if isinstance(value, str) and value else None


def provider_of(said: Said) -> str:
    """Who serves the model, under OpenTelemetry's name; nothing where only a framework is named."""
    given = text(first(said, ("gen_ai.provider.name", "gen_ai.system")))
    if given is None:
        host, system = text(said.get("llm.provider")), text(said.get("llm.system"))
        pair = _PAIRS.get(((host or "").lower(), (system or "").lower()))
        if pair is not None:
            return pair
        given = host or system
    lowered = (given or "").lower()
    return _PROVIDERS.get(lowered, lowered)


def model_of(said: Said, name: str = "") -> str:
    """The model that was asked for; at the start of a span perhaps only in its name."""
    found = text(first(said, _REQUEST_MODEL)) or text(first(said, _RESPONSE_MODEL))
    if found is not None:
        return found
    word, _, rest = name.partition(" ")
    return rest if word in ("chat", "generate_content", "text_completion", "embeddings") else ""


def operation_of(said: Said, name: str = "") -> str:
    """The operation, under the conventions' name."""
    found = text(said.get(OPERATION))
    if found is not None:
        return found
    other = text(said.get(OPENINFERENCE)) or text(said.get(REQUEST_TYPE))
    if other is not None:
        return _OPERATIONS.get(other, "chat")
    word = name.partition(" ")[0]
    return word if word in ("generate_content", "text_completion", "embeddings") else "chat"


def streamed(said: Said) -> bool | None:
    """Whether the answer was asked for as a stream; None where nothing is said."""
    found = first(said, _STREAM)
    if found is None:
        found = _object(said.get("llm.invocation_parameters")).get("stream")
    return found if isinstance(found, bool) else None


def parameters_of(said: Said) -> dict[str, Any] | None:
    """What was asked for beside the model."""
    found: dict[str, Any] = {}
    for key, value in said.items():
        if key.startswith(_PARAMETERS) and key not in _NO_PARAMETERS:
            if key.endswith(".invocation_parameters"):
                found.update(_object(value))
            else:
                name = key.removeprefix("gen_ai.request.")
                found[name] = list(value) if isinstance(value, tuple) else value
    found.pop("model", None)
    return found or None


def count(value: object) -> int | None:
    """A count of tokens, some of which are told as floats or texts."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12 else None


def usage_of(said: Said) -> dict[str, Any]:
    """The fields of the response that count tokens; the input is a total that includes what was cached.

    The conventions want it so. Who gives a grand total shows whether he has counted otherwise.
    """
    given = [count(first(said, keys)) for keys in (_INPUT, _OUTPUT, _CACHE_READ, _CACHE_WRITE, _REASONING, _TOTAL)]
    total_in, total_out, read, write, reasoning, total = given
    cached = (read or 0) + (write or 0)
    if cached and total_in is not None and total == total_in + (total_out or 0) + cached:
        total_in += cached
    fields: dict[str, Any] = {
        "input_tokens": total_in,
        "output_tokens": total_out,
        "cache_read_input_tokens": read,
        "cache_write_input_tokens": write,
        "reasoning_output_tokens": reasoning,
        "usage": _further(said),
    }
    return {key: value for key, value in fields.items() if value is not None}


def _further(said: Said) -> dict[str, int] | None:
    found: dict[str, int] = {}
    for key, value in said.items():
        name = _FURTHER.get(key)
        if name is None and key.startswith(_DETAILS) and key not in (*_CACHE_READ, *_CACHE_WRITE, *_REASONING):
            name = key.removeprefix(_DETAILS)
        number = None if name is None else count(value)
        if name is not None and number is not None:
            found[name] = number
    _flatten(_object(said.get(_RAW)), "", found)
    return found or None


def _flatten(given: Mapping[str, Any], prefix: str, into: dict[str, int]) -> None:
    for key, value in given.items():
        if isinstance(value, Mapping) and prefix.count(".") < 2:
            _flatten(value, f"{prefix}{key}.", into)
        elif (number := count(value)) is not None and len(into) < 64:
            into.setdefault(prefix + key, number)


def cost_of(said: Said) -> float | None:
    """What the span says that it cost in US dollars; nothing is what those say who found no price."""
    if str(said.get(_CURRENCY, "USD")).upper() != "USD":
        return None
    found = first(said, _COST)
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return None
    return float(found) if math.isfinite(found) and found > 0 else None


def tokens_used(said: Said) -> dict[str, int] | None:
    """The totals that a run's span gives; they are compared with its calls, and never added."""
    found: dict[str, int] = {}
    for key, keys in (("input_tokens", _INPUT), ("output_tokens", _OUTPUT)):
        number = count(first(said, (f"gen_ai.aggregated_usage.{key}", *keys)))
        if number is not None:
            found[key] = number
    return found or None


def answer_of(said: Said, span: ReadableSpan) -> dict[str, Any]:
    """What a call's end says beside its usage and content."""
    fields: dict[str, Any] = {
        "response_model": text(first(said, _RESPONSE_MODEL)),
        "response_id": text(first(said, _RESPONSE_ID)) or _answer_id(said.get("output.value")),
        "finish_reasons": _reasons(first(said, _FINISH)) or _reasons_in(span),
        "time_to_first_chunk": _first_chunk(said, span),
        "service_tier": text(first(said, _TIER)),
        "cost_usd": cost_of(said),
    }
    return {key: value for key, value in fields.items() if value is not None}


def _answer_id(output: object) -> str | None:
    found = _ANSWER_ID.match(output) if isinstance(output, str) else None
    return None if found is None else found[1]


def _reasons(given: object) -> list[str] | None:
    if isinstance(given, str) and given[:1] == "[":
        given = parsed(given)
    if isinstance(given, str):
        return [given] if given else None
    found = [reason for reason in given if isinstance(reason, str) and reason] if isinstance(given, Sequence) else []
    return found or None


def _reasons_in(span: ReadableSpan) -> list[str] | None:
    """Conventions until 1.36 tell each choice in an event of the span."""
    given = [(event.attributes or {}).get("finish_reason") for event in span.events if event.name == "gen_ai.choice"]
    return [reason for reason in given if isinstance(reason, str)] or None


def _first_chunk(said: Said, span: ReadableSpan) -> float | None:
    found = said.get("gen_ai.response.time_to_first_chunk")
    if found is None and (found := said.get(_MS)) is not None and isinstance(found, int):
        return found / 1000  # Strands says milliseconds
    if isinstance(found, (int, float)) and not isinstance(found, bool) and math.isfinite(found) and found >= 0:
        return float(found)
    start = span.start_time or 0
    return next(((event.timestamp - start) / 1e9 for event in span.events if event.name in _FIRST_CHUNK), None)


def _object(value: object) -> Mapping[str, Any]:
    """An object, also where it is written as JSON."""
    found = parsed(value) if isinstance(value, str) else value
    return found if isinstance(found, Mapping) else {}


def parsed(value: str) -> Any:
    """What a JSON text says; what is none is a text."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
