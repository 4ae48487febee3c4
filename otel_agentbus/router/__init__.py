"""Who hears what: subscribe, emit; and, apart from events, ask and answer."""

from __future__ import annotations

from .failures import OnError
from .routing import Router
from .subscription import Deliver, Options, Subscription, WhenFull

__all__ = ["Deliver", "OnError", "Options", "Router", "Subscription", "WhenFull"]
