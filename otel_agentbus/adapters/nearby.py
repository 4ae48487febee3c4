"""Tool calls of this process that a server of the same process may be asked to do, by what the asking says of them.

The server's own tasks know nothing of who asks; so it looks here before it takes a call for one from elsewhere.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from ..blocks import Block

#: Claude Code names the tool call in the metadata of what it asks a server.
CLAUDE = "claudecode/toolUseId"
#: By the ids of run and call, as they travel, or by what Claude Code says.
calling: dict[Hashable, Block] = {}


def place_of(block: Block) -> Hashable | None:
    """How a call is known by what travels; None for one that belongs to no run."""
    return (block.invocation.id, block.call) if block.call and block.invocation.id else None


def asked_by_claude(meta: Any) -> Block | None:
    """The call that Claude Code speaks of, if it is one of this process."""
    id = meta.get(CLAUDE) if isinstance(meta, Mapping) else None
    return calling.get((CLAUDE, id)) if isinstance(id, str) else None


__all__ = ["CLAUDE", "asked_by_claude", "calling", "place_of"]
