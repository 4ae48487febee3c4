"""For classes that have an event bus of their own: a method that runs an agent and publishes what happens in it."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic_ai.agent import AbstractAgent
from pydantic_ai.run import AgentRunResult

from .forward import traced

OutputT = TypeVar("OutputT")


class TraceMixin:
    """For a class with `publish_event(type, data)`, sync or async: LLM events beside its domain events on one bus.

    ```python
    async def execute(self, task):
        await self.publish_event("lead_received", {"email": task["email"]})
        result = await self.trace_agent(self.pydantic_agent, task["description"])
        return result.output
    ```
    """

    async def trace_agent(
        self, agent: AbstractAgent[Any, OutputT], *args: Any, **kwargs: Any
    ) -> AgentRunResult[OutputT]:
        """Run `agent.run(*args, **kwargs)`, publish what happens in it, and give back its own result.

        The events name the agent by its own name, else by this object's `name`, else by its class.
        """
        publish = self.publish_event  # type: ignore[attr-defined]  # of the class that this is mixed into
        own = getattr(self, "name", None)
        label = agent.name or (own if isinstance(own, str) and own else type(self).__name__)
        return await traced(agent, publish, label, args, kwargs)
