"""LlamaIndex, observed through its own instrumentation: a span handler and an event handler on its root dispatcher.

What agents, workflows, query and chat engines, models, embeddings and tools tell there becomes our blocks. LlamaIndex
itself is not imported here, only the dispatcher that it speaks to. Tested with llama-index-core 0.14.13 and 0.14.25
(llama-index-workflows 2.13.1 and 2.26.1, llama-index-instrumentation 0.4.2 and 0.6.0).
"""

from __future__ import annotations

from .handlers import Instrumentation, instrument

__all__ = ["Instrumentation", "instrument"]
