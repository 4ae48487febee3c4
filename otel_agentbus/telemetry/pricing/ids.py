"""The names of providers and models as price lists write them, from the names that OpenTelemetry and frameworks use."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from otel_agentbus.telemetry import names

#: No provider and no model has a longer name; a longer one is not looked up.
LONGEST: Final = 256

#: OpenTelemetry's ids, as genai-prices calls the same providers. IBM's watsonx is not in that list.
LISTED_AS: Final[Mapping[str, str]] = {
    "aws.bedrock": "aws",
    "azure.ai.inference": "azure",
    "azure.ai.openai": "azure",
    "gcp.gemini": "google",
    "gcp.gen_ai": "google",
    "gcp.vertex_ai": "google",
    "mistral_ai": "mistral",
    "moonshot_ai": "moonshotai",
    "x_ai": "x-ai",
}

#: Names that frameworks use for providers of the list and that are no alias of a conventions' id. A name that merely
#: contains a provider's ("my-openai-proxy") is another provider: its prices are not known.
SPELLINGS: Final[Mapping[str, str]] = {
    "amazon": "aws",
    "amazon-bedrock": "aws",
    "anthropic-bedrock": "aws",
    "aws-bedrock": "aws",
    "bedrock-converse": "aws",
    "azure-ai": "azure",
    "azure-ai-foundry": "azure",
    "azure-foundry": "azure",
    "azure-ai-inference": "azure",
    "azure-ai-openai": "azure",
    "openai-chat": "openai",
    "openai-responses": "openai",
    "claude": "anthropic",
    "anthropic-vertex": "google",
    "google-anthropic-vertex": "google",
    "google-genai": "google",
    "google-vertex-ai": "google",
    "vertex": "google",
    "cohere-v2": "cohere",
    "deep-seek": "deepseek",
    "fireworks-ai": "fireworks",
    "fireworksai": "fireworks",
    "github-copilot-chat": "github-copilot",
    "grok": "x-ai",
    "kimi": "moonshotai",
    "open-router": "openrouter",
    "perplexity-ai": "perplexity",
    "pplx": "perplexity",
    "together-ai": "together",
    "togetherai": "together",
    "voyage": "voyageai",
    "voyage-ai": "voyageai",
    "z-ai": "zai",
    "z.ai": "zai",
    "zhipu": "zhipuai",
    "zhipu-ai": "zhipuai",
}

#: The router whose model names begin with the real provider.
LITELLM: Final = "litellm"

_TAIL = re.compile(r"(?:^|.*/)(?:models|foundation-model|inference-profile)/([^/]+)$")


def canonical(provider: str) -> str:
    """One spelling of a provider: OpenTelemetry's id where it has one, else as it is given in small letters."""
    lowered = provider.strip().lower()
    return lowered if lowered in names.PROVIDERS else names.PROVIDER_ALIASES.get(lowered, lowered)


def listed(provider: str) -> str:
    """The provider's id as the price list may write it."""
    known = canonical(provider)
    if known in LISTED_AS:
        return LISTED_AS[known]
    dashed = known.replace("_", "-").replace(" ", "-")
    return SPELLINGS.get(dashed, dashed)


def model_spellings(model: str, provider: str) -> Iterator[str]:
    """The names under which a model of this provider (in the list's spelling) may be listed, the given one first."""
    yield model
    tail = _TAIL.match(model)  # "models/gemini-…" of Google's API, an ARN of Bedrock
    if tail:
        yield tail[1]
    prefix, slash, rest = model.partition("/")
    if slash and listed(prefix) == provider:
        yield rest


__all__ = ["LISTED_AS", "LITELLM", "LONGEST", "SPELLINGS", "canonical", "listed", "model_spellings"]
