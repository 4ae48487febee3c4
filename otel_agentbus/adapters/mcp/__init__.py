"""MCP, observed: tool calls of this process's clients, and those that its servers handle, in one trace.

A client's call is a tool call of its own or, where an agent framework tells of it already, that one's, which then also
says what MCP knows. Its place travels in `params._meta`: the W3C trace context, as the protocol has it (SEP-414), and
our entry with the ids of the run. A server's call is continued from there.

`clients` has the asking side, `servers` the answering one, `calls` what both know. Tested with mcp 1.22.0,
1.30.0, 2.0.0, 2.1.1 and 2.3.0.
"""

from __future__ import annotations

from .wraps import Instrumentation, instrument

__all__ = ["Instrumentation", "instrument"]
