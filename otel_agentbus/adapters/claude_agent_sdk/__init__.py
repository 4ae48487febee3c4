"""The Claude Agent SDK, observed: every `query()` and every `ClaudeSDKClient` of the process.

The SDK talks to a command-line program in JSON lines, and those say everything: the answers with their usage, the tool
calls and their results, the sub-agents, the result with the reported cost. So they are read as they arrive, in the
SDK's own reader, and no hook is registered: the program would have to ask back for each one, and its standard input
would stay open for longer.

`wraps` has the places of the SDK where we stand, `sessions` what one conversation's lines say, `runs` what one agent of
it is doing, `calls` its model calls, `mapping` the words. Tested with claude-agent-sdk 0.2.82 and 0.2.187.
"""

from __future__ import annotations

from .wraps import Instrumentation, instrument

__all__ = ["Instrumentation", "instrument"]
