"""What the Agents SDK says of its models, in the words of our events: names, providers, parameters, usage, answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from agents import Agent, ModelResponse, ModelSettings
from agents.models import _openai_shared
from agents.models.default_models import get_default_model
from agents.models.interface import Model
from agents.models.multi_provider import MultiProvider
from agents.models.openai_provider import OpenAIProvider

from ..losses import Shielded
from .messages import answer, calls_tools, chat_answer

_UNTOLD = Shielded("what a model of the Agents SDK has answered could not be told")

#: Who answers under these hosts (or any below them) to requests in OpenAI's format.
_HOSTS = {
    "openai.com": "openai",
    "openai.azure.com": "azure.ai.openai",
    "services.ai.azure.com": "azure.ai.inference",
    "models.ai.azure.com": "azure.ai.inference",
    "anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    "deepseek.com": "deepseek",
    "groq.com": "groq",
    "mistral.ai": "mistral_ai",
    "moonshot.ai": "moonshot_ai",
    "moonshot.cn": "moonshot_ai",
    "perplexity.ai": "perplexity",
    "x.ai": "x_ai",
    "cohere.ai": "cohere",
    "cohere.com": "cohere",
    "openrouter.ai": "openrouter",
    "together.xyz": "together_ai",
    "fireworks.ai": "fireworks_ai",
    "cerebras.ai": "cerebras",
}
#: What stands before the name of a model that another library calls, which has the provider's name next.
_GATEWAYS = ("litellm", "any-llm")
_GATEWAY_MODULES = ("agents.extensions.models.litellm_model", "agents.extensions.models.any_llm_model")
_UNFINISHED = {"max_output_tokens": "length", "content_filter": "content_filter"}
_PARAMETERS = ("temperature", "top_p", "frequency_penalty", "presence_penalty", "max_tokens")
#: Further settings that say how a model was asked; they have no name in the conventions.
_MORE_PARAMETERS = ("tool_choice", "parallel_tool_calls", "truncation", "verbosity", "store", "top_logprobs")


@dataclass(frozen=True, slots=True)
class Asked:
    """Which model of whom, and how."""

    model: str | None
    provider: str | None
    parameters: dict[str, Any] | None


def asked(agent: Any, config: Any) -> Asked:
    """The model that this agent asks in a run of this configuration, found as the SDK finds it, without making it."""
    given = getattr(config, "model", None)
    model = getattr(agent, "model", None) if given is None else given
    named = of_model(model) if isinstance(model, Model) else of_name(model, getattr(config, "model_provider", None))
    return Asked(*named, _settings(agent, config))


def of_model(model: Model) -> tuple[str, str | None]:
    """The name and the provider of a model object; its class names one of the program's own that tells none."""
    name = getattr(model, "model", None) or getattr(model, "model_name", None)
    if not isinstance(name, str):
        return type(model).__name__, None
    if type(model).__module__ in _GATEWAY_MODULES:
        return _behind_gateway(name)
    client = getattr(model, "_client", None)
    return name, None if client is None else of_host(getattr(client, "base_url", None)) or "openai"


def of_name(model: Any, provider: Any) -> tuple[str | None, str | None]:
    """The name and the provider of a model that the run's model provider will find by this name."""
    name = model if isinstance(model, str) else get_default_model()
    if provider is not None and not isinstance(provider, (MultiProvider, OpenAIProvider)):
        return (model if isinstance(model, str) else None), None  # the program's own: it knows what its names mean
    prefix, slash, rest = name.partition("/")
    if slash and prefix in _GATEWAYS:
        return _behind_gateway(rest)
    client = getattr(provider, "_client", None) or _openai_shared.get_default_openai_client()
    return (rest if slash and prefix == "openai" else name), of_host(getattr(client, "base_url", None)) or "openai"


def of_host(url: Any) -> str | None:
    """Who answers at this address; None where that is not known, such as a server of one's own."""
    try:
        labels = (urlsplit(str(url)).hostname or "").split(".")
    except ValueError:
        return None
    for start in range(len(labels) - 1):
        found = _HOSTS.get(".".join(labels[start:]))
        if found is not None:
            return found
    return None


def _behind_gateway(name: str) -> tuple[str, str | None]:
    provider, slash, rest = name.partition("/")
    return (rest, provider) if slash else (name, "openai")


def _settings(agent: Any, config: Any) -> dict[str, Any] | None:
    settings = getattr(agent, "model_settings", None)
    if not isinstance(settings, ModelSettings):
        return None
    return parameters(settings.resolve(getattr(config, "model_settings", None)))


def parameters(settings: Any) -> dict[str, Any] | None:
    """The parameters of a request, of the SDK's settings or of what a generation span has of them."""
    given = settings if isinstance(settings, dict) else None
    found: dict[str, Any] = {}
    for name in (*_PARAMETERS, *_MORE_PARAMETERS):
        value = given.get(name) if given is not None else getattr(settings, name, None)
        if value is not None:
            found[name] = value
    reasoning = given.get("reasoning") if given is not None else getattr(settings, "reasoning", None)
    effort = reasoning.get("effort") if isinstance(reasoning, dict) else getattr(reasoning, "effort", None)
    if effort is not None:
        found["reasoning_effort"] = effort
    return found or None


def usage(said: Any) -> dict[str, Any]:
    """Usage as a span or a model's response has it; what the provider did not report stays unset.

    The SDK counts a request without a reported usage as one of 0 tokens: that is unknown, not free.
    """
    asked, answered = _count(said, "input_tokens"), _count(said, "output_tokens")
    if not (asked or answered):
        return {}
    read, written = _get(said, "input_tokens_details"), _get(said, "output_tokens_details")
    return {
        "input_tokens": asked,
        "output_tokens": answered,
        "cache_read_input_tokens": _count(read, "cached_tokens") or None,
        "cache_write_input_tokens": _count(read, "cache_write_tokens") or None,
        "reasoning_output_tokens": _count(written, "reasoning_tokens") or None,
    }


def of_response_span(data: Any, *, content: bool) -> dict[str, Any]:
    """What a response span says at its end: a call of the Responses API."""
    response = data.response
    fields = usage(getattr(data, "usage", None) or _get(response, "usage"))
    if response is None:
        return fields | {"response_id": getattr(data, "_response_id", None)}
    said = _told(answer, _get(response, "output"))
    reason = _finish_reason(response, said)
    if content and said is not None and reason is not None:
        said[0]["finish_reason"] = reason
    return fields | {
        "response_id": _word(response, "id"),
        "response_model": _word(response, "model"),
        "service_tier": _word(response, "service_tier"),
        "finish_reasons": None if reason is None else [reason],
        "messages": said if content else None,
    }


def of_generation_span(data: Any, *, content: bool) -> dict[str, Any]:
    """What a generation span says at its end: any other call. It has neither the response's id nor why it ended."""
    said = _told(chat_answer, data.output)
    return usage(data.usage) | {
        "finish_reasons": ["tool_calls"] if calls_tools(said) else None,
        "messages": said if content else None,
    }


def of_model_response(response: ModelResponse, *, content: bool) -> dict[str, Any]:
    """What the SDK made of an answer: of a model of the program's own that makes no span."""
    said = _told(answer, _get(response, "output"))
    return usage(_get(response, "usage")) | {
        "response_id": _word(response, "response_id"),
        "finish_reasons": ["tool_calls"] if calls_tools(said) else None,
        "messages": said if content else None,
    }


def _finish_reason(response: Any, said: list[Any] | None) -> str | None:
    status = _word(response, "status")
    if status == "completed":
        return "tool_calls" if calls_tools(said) else "stop"
    if status == "incomplete":
        return _UNFINISHED.get(_word(_get(response, "incomplete_details"), "reason") or "", "incomplete")
    return status


def instructions_of(agent: Any) -> str | None:
    """An agent's instructions where they are a text; those that a function makes are seen with the first model call."""
    found = getattr(agent, "instructions", None)
    return found if isinstance(found, str) else None


def is_agent(thing: Any) -> bool:
    """Whether this is an agent of the SDK's."""
    return isinstance(thing, Agent)


def _told(read: Callable[[Any], list[Any] | None], said: Any) -> list[Any] | None:
    """What `read` makes of an answer; None where it cannot, for the usage is to be counted all the same."""
    with _UNTOLD:
        return read(said)
    return None


def _count(thing: Any, name: str) -> int | None:
    value = _get(thing, name)
    return value if isinstance(value, int) else None


def _word(thing: Any, name: str) -> str | None:
    """A text; a program's fake of a response may have anything there, or nothing."""
    value = _get(thing, name)
    return value if isinstance(value, str) else None


def _get(thing: Any, name: str) -> Any:
    return thing.get(name) if isinstance(thing, dict) else getattr(thing, name, None)


__all__ = [
    "Asked",
    "asked",
    "instructions_of",
    "is_agent",
    "of_generation_span",
    "of_host",
    "of_model",
    "of_model_response",
    "of_name",
    "of_response_span",
    "parameters",
    "usage",
]
