"""The way of events to a broker: taken from the pump, put in order, and written by a thread of their own."""

from __future__ import annotations

from .feed import Feed

__all__ = ["Feed"]
