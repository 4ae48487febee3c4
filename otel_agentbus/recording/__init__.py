"""Events to a journal and back: the Recorder writes down what happens, and whoever comes later reads it in order.

A record is one event as JSON. The first record of each writer is its `Opening`: which process this was, and what it
takes to make the same spans of its events again.
"""

from .keys import Keys
from .moments import moment_of, nanoseconds_of
from .opening import Opening, is_opening, key_hash
from .reading import Recorded, Told, merged, read_events, sources
from .recorder import Recorder
from .records import read_record, record_of

__all__ = [
    "Keys",
    "Opening",
    "Recorded",
    "Recorder",
    "Told",
    "is_opening",
    "key_hash",
    "merged",
    "moment_of",
    "nanoseconds_of",
    "read_events",
    "read_record",
    "record_of",
    "sources",
]
