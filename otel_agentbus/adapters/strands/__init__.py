"""Strands Agents, observed: `instrument()` for every agent, graph and swarm in the process, those that exist included.

What begins and ends is told by Strands' own typed hook events, taken where every registry of hooks hands them out; what
a model call is, and what it used, by the one function through which the event loop asks models. Tested with
strands-agents 1.34.0 and 1.62.0.
"""

from __future__ import annotations

from .observing import Observation, instrument

__all__ = ["Observation", "instrument"]
