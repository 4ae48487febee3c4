"""From a journal to an endpoint: `recover` sends what no process finished, `replay` sends anything again.

A span is a function of its events and of its source's resource, both of which are in the journal. So what is sent has
the ids, the times and the bytes that the process itself would have sent.
"""

from .origin import opening_of
from .recovering import Recovered, recover
from .replaying import Replayed, replay
from .sending import Progress, exporters_for

__all__ = ["Progress", "Recovered", "Replayed", "exporters_for", "opening_of", "recover", "replay"]
