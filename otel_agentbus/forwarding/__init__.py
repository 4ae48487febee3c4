"""To an application's own event bus: a function `publish(type, data)`, a Redis channel or a Redis stream.

A bus that is there already stays where everything is heard; what agents do becomes events of it, beside its own. None
of this is on an agent's path: events are queued (bounded), published in their order by a thread or a task, and what
fails, hangs or finds no room is counted and never seen by the agent. What leaves is what a sink may see: content only
where it is captured, or asked for here, and never without its secrets taken out.
"""

from __future__ import annotations

from .forwarder import Forwarding, forward_to
from .redis_bus import RedisForwarding, forward_to_redis
from .telling import LlmEvents, Said, as_events

__all__ = ["Forwarding", "LlmEvents", "RedisForwarding", "Said", "as_events", "forward_to", "forward_to_redis"]
