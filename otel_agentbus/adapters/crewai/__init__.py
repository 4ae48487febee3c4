"""CrewAI, observed: crews, flows, agents, model calls and tool calls, by the events of its global event bus.

Every event is heard where it is emitted, by a wrap of `CrewAIEventsBus.emit` that can be undone, and not by handlers
(`crewai_event_bus.on`): those run later, on a pool's threads, in no order and in copied contexts, where nothing can be
made current for the body of a tool. What events do not tell, a run that is cancelled, a guard around the public
`kickoff` methods does. Tested with crewai 1.15.0 and 1.15.30.
"""

from __future__ import annotations

from .listening import Listener, instrument

__all__ = ["Listener", "instrument"]
