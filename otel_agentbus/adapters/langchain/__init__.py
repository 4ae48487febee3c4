"""LangChain and LangGraph, observed: graphs and chains, model calls and tool calls of the whole process.

One callback handler is attached by `register_configure_hook`, LangChain's own way to give every run a handler. Runs
name their parents by ids, so the tree is right in threads, tasks and streams; what is current in the user's functions
is set where LangChain runs them, and never in the consumer of a stream. Tested with langchain-core 1.0.0 and 1.7.2,
langgraph 1.0.0 and 1.2.22, langchain 1.0.0 and 1.4.7.
"""

from __future__ import annotations

from .handler import Observing, instrument

__all__ = ["Observing", "instrument"]
