"""Which provider serves a model of ADK's: read off its name, or off the class of the model object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.adk.utils.variant_utils import GoogleLLMVariant, get_google_llm_variant

#: LiteLlm's prefixes, by the names that OpenTelemetry has for the providers.
_PREFIXES: Mapping[str, str] = {
    "anthropic": "anthropic",
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "cohere": "cohere",
    "deepseek": "deepseek",
    "gemini": "gcp.gemini",
    "groq": "groq",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "openai": "openai",
    "perplexity": "perplexity",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
#: ADK's own model classes that serve one provider whatever the model's name.
_CLASSES: Mapping[str, str] = {"AnthropicLlm": "anthropic", "Claude": "anthropic"}
_STARTS: Mapping[str, str] = {"claude": "anthropic", "gpt-": "openai", "o1": "openai", "o3": "openai", "o4": "openai"}


def named(model: Any) -> str | None:
    """The name of a model that is given as a name or as an object; without the prefix that says its provider."""
    name = model if isinstance(model, str) else getattr(model, "model", None)
    if not isinstance(name, str) or not name:
        return None
    prefix, slash, rest = name.partition("/")
    return rest if slash and rest and (prefix == "apigee" or prefix in _PREFIXES) else name


def provider_of(model: Any) -> str | None:
    """The provider by its OpenTelemetry name; None where nothing says it (a model class of the application's own)."""
    if model is None:
        return None
    name = model if isinstance(model, str) else getattr(model, "model", None)
    by_name = _by_name(name) if isinstance(name, str) else None
    if isinstance(model, str) or by_name is not None:
        return by_name
    classes = {kind.__name__: kind for kind in type(model).__mro__}
    if "Gemini" in classes:
        return _google()
    return next((provider for kind, provider in _CLASSES.items() if kind in classes), None)


def _by_name(name: str) -> str | None:
    prefix, slash, rest = name.partition("/")
    if slash and prefix in _PREFIXES:
        return _PREFIXES[prefix]
    name = rest if slash and prefix == "apigee" else name
    if name.startswith("projects/"):
        return "gcp.vertex_ai"
    if name.startswith(("gemini-", "gemma-")):
        return _google()
    return next((provider for start, provider in _STARTS.items() if name.startswith(start)), None)


def _google() -> str:
    """Which of Google's two services it is, as ADK itself decides."""
    return "gcp.vertex_ai" if get_google_llm_variant() is GoogleLLMVariant.VERTEX_AI else "gcp.gemini"
