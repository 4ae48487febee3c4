"""Google ADK, observed: `instrument()` for every runner of this process, with its agents, model calls and tool calls.

ADK's hook is a plugin, which each runner is given by the application: there is none for all of them. And a plugin
does not hear everything: not the end of a run that is cancelled, not a model call that is left early, and of a call
that another callback answers only its beginning. Therefore the places are wrapped where ADK runs what is to be seen:
`Runner.run_async` and `run_live`, `BaseAgent.run_async` and `run_live`, `BaseLlmFlow._run_and_handle_error` (one call
of a model), and the three methods by which the plugin manager calls plugins around a tool. Runners of `AgentTool`, and
those that were made before, are seen as well, and nobody's list of plugins changes.

Tested with google-adk 2.3.0 and 2.13.0.
"""

from __future__ import annotations

from .observing import Observation, instrument

__all__ = ["Observation", "instrument"]
