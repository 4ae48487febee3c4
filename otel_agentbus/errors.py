"""The errors that this package raises, all while wiring.

AgentBusError
├── ConfigurationError     a setting is missing, wrong or contradictory       (connect, Settings)
├── UnsupportedFramework   no adapter of that name, or not for that version   (instrument)
├── UnreadableEvent        bytes that are not an event of ours                (contract.read)
└── NoAnswer               nobody answers this kind of request                (Router.ask)
"""

from __future__ import annotations


class AgentBusError(Exception):
    """The root of every error that this package raises on purpose."""


class ConfigurationError(AgentBusError, ValueError):
    """A setting is missing, wrong or contradictory; the sentence says which, its value and the remedy."""


class UnsupportedFramework(AgentBusError, LookupError):
    """There is no adapter for this framework, or not for the version that is installed."""


class UnreadableEvent(AgentBusError, ValueError):
    """These bytes are not an event that the contract can read."""


class NoAnswer(AgentBusError, LookupError):
    """A request was asked, and nobody has said that they answer its kind."""
