"""What an endpoint does not take, kept on disk and sent again: in order, identical, by this process or the next."""

from __future__ import annotations

from .counts import SpoolCounts
from .directories import Found, key_of, spools
from .exporter import SpoolingSpanExporter, sender_to, spooling_exporter

__all__ = ["Found", "SpoolCounts", "SpoolingSpanExporter", "key_of", "sender_to", "spooling_exporter", "spools"]
