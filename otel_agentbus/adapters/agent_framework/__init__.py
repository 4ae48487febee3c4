"""Microsoft agent-framework, observed: `instrument()` for every agent, workflow, chat client and tool in the process.

Its middleware is per agent and has no registry, so the methods are wrapped in which each run, each request and each
tool call comes past exactly once: the innermost of its layers. Streams are followed by their own hooks. Tested with
agent-framework-core 1.3.0, 1.8.0 and 1.23.0.
"""

from __future__ import annotations

from .observing import Observation, instrument

__all__ = ["Observation", "instrument"]
