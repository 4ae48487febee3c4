"""What a span of another instrumentation is of: a run of an agent, a model call, a tool call, or none of them.

Attributes say it where they are there. Some frameworks (Strands, the ADK, agent-framework) set theirs only after the
span has begun, so that its name is all there is at first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

#: "chain" is a step of a program: at the top of a tree it is a run, anywhere else nothing of its own. "step" is never.
Kind = Literal["agent", "llm", "tool", "chain", "step"]

OPERATION: Final = "gen_ai.operation.name"
OPENINFERENCE: Final = "openinference.span.kind"
TRACELOOP: Final = "traceloop.span.kind"
REQUEST_TYPE: Final = "llm.request.type"
MCP_METHOD: Final = "mcp.method.name"
_SYSTEMS: Final = ("gen_ai.system", "gen_ai.provider.name")
_MODELS: Final = ("gen_ai.request.model", "gen_ai.response.model")
_TOOL: Final = "gen_ai.tool.name"
_AGENT: Final = "gen_ai.agent.name"

#: One of these is on every span that is of interest.
MARKS: Final = frozenset((OPERATION, OPENINFERENCE, TRACELOOP, REQUEST_TYPE, MCP_METHOD, *_SYSTEMS, *_MODELS, _TOOL))

_OPERATIONS: Final[Mapping[str, Kind]] = {
    **dict.fromkeys(("chat", "text_completion", "generate_content", "completion", "embeddings", "rerank"), "llm"),
    **dict.fromkeys(("image_generation", "transcription", "speech"), "llm"),
    **dict.fromkeys(("invoke_agent", "invoke_workflow", "invoke_swarm", "invoke_graph"), "agent"),
    **dict.fromkeys(("execute_tool", "retrieval"), "tool"),
}
_OPENINFERENCE: Final[Mapping[str, Kind]] = {
    "LLM": "llm",
    "EMBEDDING": "llm",
    "AGENT": "agent",
    "TOOL": "tool",
    "RETRIEVER": "tool",
    "RERANKER": "tool",
    "CHAIN": "chain",
}
_TRACELOOP: Final[Mapping[str, Kind]] = {"workflow": "agent", "agent": "agent", "tool": "tool"}
#: What the first word of a name says by itself, for nobody calls anything else so.
_CERTAIN: Final[Mapping[str, Kind]] = {
    "invoke_agent": "agent",
    "invoke_workflow": "agent",
    "invoke_swarm": "agent",
    "invoke_graph": "agent",
    "execute_tool": "tool",
    "tools/call": "tool",
}
#: How OpenLLMetry ends the names of its spans, which have no attributes when they begin.
ENDINGS: Final[Mapping[str, Kind]] = {
    "workflow": "agent",
    "agent": "agent",
    "tool": "tool",
    "chat": "llm",
    "completion": "llm",
    "task": "step",
}
_CALLS: Final = frozenset(("chat", "generate_content", "text_completion", "embeddings", "call_llm"))
#: A span of the ADK around parallel tool calls, each of which has its own.
_NOT_A_TOOL: Final = "(merged"


def kind_by_attributes(said: Mapping[str, Any]) -> Kind | None:
    """What the attributes say; None where they say nothing of agents or models."""
    operation = said.get(OPERATION)
    if isinstance(operation, str):
        if str(said.get(_TOOL, "")).startswith(_NOT_A_TOOL):
            return "step"
        return _OPERATIONS.get(operation, "step")
    for key, kinds in ((OPENINFERENCE, _OPENINFERENCE), (TRACELOOP, _TRACELOOP)):
        found = said.get(key)
        if isinstance(found, str):
            return kinds.get(found, "step")
    if said.get(REQUEST_TYPE) is not None:
        return "llm"
    method = said.get(MCP_METHOD)
    if method is not None:
        return "tool" if method == "tools/call" else "step"
    return _older(said)


def _older(said: Mapping[str, Any]) -> Kind | None:
    """Conventions before there were operations."""
    if said.get(_TOOL) is not None:
        return "tool"
    if any(said.get(key) is not None for key in _MODELS):
        return "llm"
    if any(said.get(key) is not None for key in _SYSTEMS):
        return "agent" if said.get(_AGENT) is not None else None
    return None


def kind_by_name(name: str) -> tuple[Kind | None, bool]:
    """What a name says, and whether that is certain: a "chat" may be among people."""
    word, _, rest = name.partition(" ")
    found = _CERTAIN.get(word)
    if found is not None:
        return (None, False) if rest.startswith(_NOT_A_TOOL) or (word == "execute_tool" and not rest) else (found, True)
    return ("llm", False) if word in _CALLS else (None, False)


def without_ending(name: str) -> str:
    """A name of OpenLLMetry's, without what it says of the kind."""
    front, _, ending = name.rpartition(".")
    return front if front and ending in ENDINGS else name


__all__ = [
    "ENDINGS",
    "MARKS",
    "MCP_METHOD",
    "OPENINFERENCE",
    "OPERATION",
    "TRACELOOP",
    "Kind",
    "kind_by_attributes",
    "kind_by_name",
    "without_ending",
]
