"""What the object is whose function is told of, known by the names of its classes: so nothing has to be imported."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final, Literal

Kind = Literal["model", "embedding", "tool", "agent", "team", "workflow", "engine"]

_CORE: Final = "llama_index.core."
#: The classes by which an object is known, the narrower ones first.
_CLASSES: Final[dict[tuple[str, str], Kind]] = {
    (_CORE + "base.llms.base", "BaseLLM"): "model",
    (_CORE + "base.embeddings.base", "BaseEmbedding"): "embedding",
    (_CORE + "base.embeddings.base_sparse", "BaseSparseEmbedding"): "embedding",
    (_CORE + "tools.types", "BaseTool"): "tool",
    (_CORE + "agent.workflow.base_agent", "BaseWorkflowAgent"): "agent",
    (_CORE + "agent.workflow.multi_agent_workflow", "AgentWorkflow"): "team",
    ("workflows.workflow", "Workflow"): "workflow",
    (_CORE + "base.base_query_engine", "BaseQueryEngine"): "engine",
    (_CORE + "chat_engine.types", "BaseChatEngine"): "engine",
    (_CORE + "base.base_retriever", "BaseRetriever"): "engine",
}

#: Which of their methods are what the object is there for.
METHODS: Final[dict[Kind, frozenset[str]]] = {
    "model": frozenset(
        ("chat", "achat", "stream_chat", "astream_chat", "complete", "acomplete", "stream_complete", "astream_complete")
    ),
    "embedding": frozenset(
        form + name
        for name in ("get_query_embedding", "get_text_embedding", "get_text_embedding_batch")
        for form in ("", "a")
    ),
    "tool": frozenset(("__call__", "call", "acall")),
    "agent": frozenset(("run",)),
    "team": frozenset(("run",)),
    "workflow": frozenset(("run",)),
    "engine": frozenset(form + name for name in ("query", "chat", "stream_chat", "retrieve") for form in ("", "a")),
}

#: Where an integration's package is named otherwise than the provider is in OpenTelemetry; `None` where it speaks to
#: many, and the model's name has to do.
_PROVIDERS: Final[dict[str, str | None]] = {
    "azure_inference": "azure.ai.inference",
    "azure_openai": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "bedrock_converse": "aws.bedrock",
    "core": None,
    "custom": None,
    "dashscope": "dashscope",
    "gemini": "gcp.gemini",
    "google_genai": "gcp.gemini",
    "ibm": "ibm.watsonx.ai",
    "litellm": None,
    "mistralai": "mistral_ai",
    "openai_like": None,
    "openai_responses": "openai",
    "palm": "gcp.gemini",
    "vertex": "gcp.vertex_ai",
    "vertexaisearch": "gcp.vertex_ai",
    "xai": "x_ai",
}
_PACKAGE: Final = re.compile(r"llama_index\.(?:llms|embeddings|multi_modal_llms)\.(\w+)")
#: An object that has said nothing better calls its model so.
_UNKNOWN: Final = frozenset(("", "unknown"))


def kind_of(instance: object) -> Kind | None:
    """What this object is to us, or None."""
    cls: Any = type(instance)
    return _kind(cls)


@lru_cache(maxsize=1024)
def _kind(cls: type) -> Kind | None:
    for base in cls.__mro__:
        kind = _CLASSES.get((base.__module__, base.__name__))
        if kind is not None:
            return kind
    return None


def provider_of(instance: object) -> str | None:
    """The provider that this object asks, under its OpenTelemetry name, as the package of the integration tells."""
    cls: Any = type(instance)
    return _provider(cls)


@lru_cache(maxsize=1024)
def _provider(cls: type) -> str | None:
    for base in cls.__mro__:
        found = _PACKAGE.match(base.__module__)
        if found is not None:
            package = found[1]
            if package == "azure_openai" or base.__name__.startswith("AzureOpenAI"):
                return "azure.ai.openai"
            return _PROVIDERS.get(package, package)
    return None


def model_of(instance: Any) -> str:
    """The name of the model that an object asks.

    Its plain attributes say so nearly always; `metadata` is asked last, for it may be looked up at the server.
    """
    for name in ("model", "model_name", "model_id", "deployment_name"):
        value = getattr(instance, name, None)
        if isinstance(value, str) and value not in _UNKNOWN:
            return value
    try:
        value = getattr(instance.metadata, "model_name", None)
    except Exception:  # noqa: BLE001 - none, or an integration that refuses models which it does not know
        value = None
    return value if isinstance(value, str) and value not in _UNKNOWN else type(instance).__name__


__all__ = ["METHODS", "Kind", "kind_of", "model_of", "provider_of"]
