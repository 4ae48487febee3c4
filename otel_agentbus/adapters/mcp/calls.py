"""What both ends of a call have to do with: whose it is, what came of it, how its place travels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ...calls import ToolBlock
from ...carriers import inject
from ...invocation import top

#: The requests that run a server's code for the application; all others are housekeeping.
CALLS = {"tools/call": "name", "resources/read": "uri", "prompts/get": "name"}
#: How much of a failed tool's text becomes its error's message.
_MESSAGE = 500


class Asked(NamedTuple):
    """A request that runs code of the server's."""

    method: str
    target: str
    params: Any

    @property
    def is_tool(self) -> bool:
        """Whether it calls a tool."""
        return self.method == "tools/call"


def asked(method: Any, params: Any) -> Asked | None:
    """The request, if it is one that runs the server's code; its parameters are a mapping or an object."""
    field = CALLS.get(method)
    if field is None or params is None:
        return None
    return Asked(method, str(value_of(params, field)), params)


def value_of(holder: Any, name: str) -> Any:
    """A field of a mapping or of an object."""
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)


def enclosing(tool: str) -> ToolBlock | None:
    """The tool call that is current here, if it is this one: frameworks put a server's name before the tool's."""
    frame = top()
    if not isinstance(frame, ToolBlock):
        return None
    before, found, after = frame.name.rpartition(tool)
    return frame if found and not after and (not before or not before[-1].isalnum()) else None


def carried(meta: Any) -> dict[str, Any]:
    """A request's metadata with the place of here; what was given is not changed."""
    known: dict[str, Any] = {}
    if isinstance(meta, Mapping):
        known = dict(meta)
    elif meta is not None:
        known = meta.model_dump(by_alias=True, exclude_none=True)
    place: dict[str, Any] = {}
    inject(place)
    return {**known, **place}


def outcome_of(result: Any) -> dict[str, Any]:
    """What a tool's result says: of a model, or as it is on the wire."""
    failed = next((value for name in ("isError", "is_error") if (value := value_of(result, name)) is not None), False)
    structured = next(
        (
            value
            for name in ("structuredContent", "structured_content")
            if (value := value_of(result, name)) is not None
        ),
        None,
    )
    contents = value_of(result, "content") or ()
    texts = [str(value_of(part, "text")) for part in contents if value_of(part, "type") == "text"]
    text = "\n".join(texts)
    fields: dict[str, Any] = {"result": structured if structured is not None and not failed else text}
    if failed:
        fields |= {"outcome": "error", "error_type": "tool_error", "error_message": text[:_MESSAGE]}
    return fields


def code_of(error: BaseException | None) -> dict[str, Any]:
    """The protocol's own code of an error that came from the other end."""
    code = getattr(getattr(error, "error", None), "code", None)
    return {} if code is None else {"rpc.response.status_code": str(code)}
