"""The one redaction point: what of an event may reach a queue, a span, a metric, a log or a journal.

Content is captured only where asked, scrubbed of secrets, handed to the user's own redaction, cut and rendered as JSON.
The texts of errors lose their secrets and what they quote of the run's content. What applications say themselves loses
its secrets. Every text that is kept can be encoded, and what cannot be treated is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Final, Literal, TypeVar

from otel_agentbus.events import JSON, AgentEnd, DomainEvent, Event, LlmRequest, LlmResponse, UnknownEvent

from . import messages, names
from .error_texts import ErrorTexts
from .event_fields import BARE, Shape, copy_of, fields_of
from .passages import Passages
from .redaction import Hook, Redact
from .rendering import BoundedCopy, object_of, safe_json, safe_text
from .secrets import scrub, scrub_text
from .truncation import MIN_BYTES, fitted
from .user_data import UserData

Capture = Literal["NO_CONTENT", "SPAN_ONLY", "EVENT_ONLY", "SPAN_AND_EVENT"]
E = TypeVar("E", bound=Event)

_MAX_NAMES = 4096

#: The parameters of a request that are no content: all that becomes an attribute, and what is as harmless.
_PARAMETERS: Final = frozenset(names.PARAMETERS) | frozenset(
    (
        *("stream", "logprobs", "top_logprobs", "parallel_tool_calls", "tool_choice", "truncation", "store"),
        *("verbosity", "timeout", "max_retries", "min_p", "repetition_penalty", "reasoning", "thinking_budget"),
        *("budget_tokens", "modalities", "conversation", "conversation_id", "server_address", "server_port"),
        *("server.address", "server.port"),
    )
)
_NUMERIC: Final = ("double", "int", "top_k", "choices")
#: What of a parameter that is an object is no content: of a response format its type, of reasoning its effort.
_ABOUT: Final = ("type", "effort", "id")
_NUMBERS: Final = frozenset(key for key, (_, rule, _) in names.PARAMETERS.items() if rule in _NUMERIC) | frozenset(
    ("stream", "logprobs", "top_logprobs", "parallel_tool_calls", "store", "timeout", "max_retries", "min_p")
)
_SETTING = re.compile(r"[\w.:/+-]{1,64}")


class ContentPolicy:
    """Decides what of each event is kept.

    `capture` is the mode of `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`, `max_bytes` bounds each field,
    `redact` is called with a field's name and its scrubbed JSON (the text, for an error) and returns what may be kept,
    and without `error_text` errors keep their type only. `failures` counts what could not be treated and was left out,
    `truncated` what was cut.
    """

    def __init__(
        self,
        capture: Capture = "NO_CONTENT",
        max_bytes: int = 32_768,
        redact: Redact | None = None,
        error_text: bool = True,
    ) -> None:
        self.capture: Final = capture
        self.max_bytes: Final = max(MIN_BYTES, max_bytes)
        self.on_spans: Final = capture in ("SPAN_ONLY", "SPAN_AND_EVENT")
        self.on_events: Final = capture in ("EVENT_ONLY", "SPAN_AND_EVENT")
        self.truncated = 0
        self._broken = 0
        self._redact = redact
        self._hook = Hook(redact, self.max_bytes)
        self._passages = Passages()
        self._error_texts = ErrorTexts(self._passages, self._hook, enabled=error_text)
        self._error_text = error_text
        self._runs: set[str | None] = set()  # the invocations whose lineage has been looked at
        self._names: set[str | None] = {None}  # the names that can be encoded

    def anew(self, capture: Capture | None = None) -> ContentPolicy:
        """The same policy with a memory of its own; it captures this instead, if that is given."""
        return ContentPolicy(capture or self.capture, self.max_bytes, self._redact, self._error_text)

    @property
    def failures(self) -> int:
        """How often the redact hook, or this policy itself, failed: what they failed on was left out."""
        return self._hook.failures + self._broken

    @property
    def forgotten(self) -> int:
        """How many pieces of content of open runs are no longer looked for in error texts, for want of room."""
        return self._passages.forgotten

    def after_fork(self) -> None:
        """In the child: the parent's runs are not ours, and neither is the lock that it may have held."""
        self._passages.clear()

    def apply(self, event: E) -> E:
        """The event as the sinks may see it: the same object if that is all of it, else a copy. Never raises."""
        try:
            if BARE[type(event)](event, self._names, self._runs):
                return event
        except Exception:  # noqa: BLE001 - an event with something in it; the long way round looks at it
            pass
        try:
            return self._applied(event)
        except Exception:  # noqa: BLE001 - isolation point: what cannot be treated is not exported
            self._broken += 1
            return self._stripped(event)

    # -- one event -----------------------------------------------------------------------------------------------------

    def _applied(self, event: E) -> E:
        fields = fields_of(type(event))
        root = _root_of(event)
        changes = self._texts(event, fields.texts) | self._counts(event, fields.counts)
        if type(event.invocation_id) is not str or event.invocation_id not in self._runs:
            changes |= self._lineage(event, fields.lineage)
        for field, shape in fields.content:
            value = getattr(event, field)
            if value is not None:
                changes[field] = self._content(event, field, shape, value, root)
        if isinstance(event, LlmRequest) and event.parameters is not None:
            changes["parameters"] = self._parameters(event.parameters, root)
        changes |= self._said(event, fields.added, root) | self._error(event, fields.error_text, root)
        if isinstance(event, AgentEnd) and root is not None and event.invocation_id == event.root_invocation_id:
            self._passages.end(root)
        changes = {field: value for field, value in changes.items() if getattr(event, field) is not value}
        return copy_of(event, changes) if changes else event

    def _texts(self, event: Event, fields: tuple[str, ...]) -> dict[str, object]:
        """Names and ids that cannot be encoded, or have no bound."""
        changes: dict[str, object] = {}
        known = self._names
        for field in fields:
            value = getattr(event, field)
            if value is None or (type(value) is str and value in known):
                continue
            clean = safe_text(value)
            if clean is not value:
                changes[field] = clean
            elif not field.endswith("_id"):
                known.add(clean)
        if len(known) > _MAX_NAMES:
            self._names = {None}
        return changes

    def _lineage(self, event: Event, fields: tuple[str, ...]) -> dict[str, object]:
        """What all events of an invocation share, looked at once for each."""
        changes = self._texts(event, fields)
        if not changes and event.invocation_id is not None:
            if len(self._runs) >= _MAX_NAMES:
                self._runs = set()
            self._runs.add(event.invocation_id)
        return changes

    def _counts(self, event: Event, fields: tuple[str, ...]) -> dict[str, object]:
        """Numbers under names, and finish reasons."""
        changes: dict[str, object] = {}
        for field in fields:
            value = getattr(event, field)
            if value is not None and not _is_count(value):
                changes[field] = _counts(value)
            elif isinstance(value, list) and len(value) == 1:
                self._names.add(value[0])
        return changes

    # -- content -------------------------------------------------------------------------------------------------------

    def _content(self, event: Event, field: str, shape: Shape, raw: object, root: str | None) -> str | None:
        try:
            if not self.on_spans:
                self._passages.remember(root or "", raw)
            if not (self.on_spans or self.on_events):
                return None
            value = self._scrubbed(self._shaped(event, shape, raw), root)
            kept = self._hook(field, value)
            if kept is None:
                return None
            fit, text = fitted(kept, self.max_bytes)
        except Exception:  # noqa: BLE001 - isolation point: what cannot be treated is not exported
            self._broken += 1
            return None
        self.truncated += fit is not kept
        return text

    def _shaped(self, event: Event, shape: Shape, raw: object) -> JSON:
        copy = BoundedCopy(2 * self.max_bytes, self.max_bytes)
        match shape:
            case "instructions":
                return messages.system_instructions(copy.of(raw))
            case "sent":
                return messages.input_messages(messages.copied(raw, copy))
            case "answered":
                reasons = event.finish_reasons if isinstance(event, LlmResponse) else None
                ok = getattr(event, "outcome", None) != "error"
                return messages.output_messages(messages.copied(raw, copy), _reasons(reasons), ok)
            case "value":
                return messages.arguments(copy.of(raw))

    def _scrubbed(self, value: JSON, root: str | None) -> JSON:
        secrets: list[str] = []
        clean = scrub(value, secrets.append)
        if secrets:  # an exception may quote one without the name that gave it away
            self._passages.remember_secrets(root or "", secrets)
        return clean

    def _parameters(self, given: object, root: str | None) -> object:
        parameters = object_of(given, "parameters")
        if self.on_spans or self.on_events:
            copied = safe_json(parameters, 2 * self.max_bytes, self.max_bytes)
            kept = self._hook("parameters", self._scrubbed(copied, root))
            return fitted(kept, self.max_bytes)[0] if isinstance(kept, dict) else None
        content = {key: value for key, value in parameters.items() if key not in _PARAMETERS}
        if content:
            self._passages.remember(root or "", content)
        settings = {key: _setting(key, parameters[key]) for key in parameters if key in _PARAMETERS}
        if not content and all(settings[key] is parameters[key] for key in settings):
            return given
        return {key: value for key, value in settings.items() if value is not None}

    # -- what is no content --------------------------------------------------------------------------------------------

    def _said(self, event: Event, added: tuple[str, ...], root: str | None) -> dict[str, object]:
        """Attributes and payloads, and the fields of events that an application derived from ours."""
        payload = "data" if isinstance(event, DomainEvent) else "fields" if isinstance(event, UnknownEvent) else None
        said = type(event.attributes) is not dict or event.attributes
        if not (said or payload or added):
            return {}
        user = UserData(self.max_bytes, partial(self._error_texts.of, root=root), content=self.on_spans)
        changes: dict[str, object] = {}
        if said:
            changes["attributes"] = user.attributes(event.attributes)
        if payload is not None:
            changes[payload] = user.data(self._told_by_forwarders(event, getattr(event, payload)))
        if added:
            extra = {name: getattr(event, name, None) for name in added}
            clean = user.data(extra)
            changes |= {name: clean.get(name) for name in added}
        self.truncated += user.cut
        return changes

    def _told_by_forwarders(self, event: Event, data: object) -> object:
        """Forwarded runs (`llm_tool_call` ...) quote arguments, results and errors in the data of domain events."""
        quoting = isinstance(event, DomainEvent) and event.name in names.FORWARDED
        if not quoting or not isinstance(data, Mapping) or self.capture != "NO_CONTENT":
            return data
        return {key: value for key, value in data.items() if key not in names.FORWARDED_CONTENT}

    def _error(self, event: Event, text: tuple[str, str | None] | None, root: str | None) -> dict[str, object]:
        changes: dict[str, object] = {}
        if text is not None:
            field, without = text
            said = getattr(event, field)
            if said is not None:
                changes[field] = self._error_texts.of(field, said, root) or without
        kind = getattr(event, "error_type", None)
        if kind is not None:
            changes["error_type"] = self._error_texts.kind(kind, root) or "_OTHER"
        return changes

    def _stripped(self, event: E) -> E:
        """What is left of an event that cannot be treated: neither content nor anything that was said freely."""
        try:
            fields = fields_of(type(event))
            changes: dict[str, object] = dict.fromkeys((*(field for field, _ in fields.content), *fields.added))
            changes["attributes"] = {}
            changes |= {field: None for field in (*fields.counts, "parameters") if hasattr(event, field)}
            changes |= {field: {} for field in ("data", "fields") if hasattr(event, field)}
            for field in (*fields.lineage, *fields.texts):
                value = getattr(event, field, None)
                changes[field] = None if value is None else safe_text(value)
            if hasattr(event, "error_type"):
                changes["error_type"] = None if event.error_type is None else "_OTHER"
            if fields.error_text is not None:
                field, without = fields.error_text
                changes[field] = without
            return copy_of(event, changes)
        except Exception:  # noqa: BLE001 - this is no event of ours at all
            return UnknownEvent(name="unreadable")  # type: ignore[return-value]  # better than to raise


def _root_of(event: Event) -> str | None:
    root: object = event.invocation_id if event.root_invocation_id is None else event.root_invocation_id
    return root if root is None or type(root) is str else safe_text(root)


def _is_count(value: object) -> bool:
    if type(value) is dict:
        return all(type(key) is str and key.isascii() and _is_count(said) for key, said in value.items())
    if type(value) is list:
        return all(type(item) is str and item.isascii() and len(item) <= 128 for item in value)
    return type(value) is int and value.bit_length() < 64


def _counts(value: object) -> JSON:
    if type(value) is list or type(value) is tuple:
        return [safe_text(item, 128) for item in value[:64]]
    return safe_json(value, 4096, 256)


def _reasons(value: object) -> list[str] | None:
    return [item for item in value if type(item) is str] if type(value) is list else None


def _setting(name: str, value: object) -> JSON:
    """A parameter's value, if it is a setting: a number, a flag, a word, some short texts, or about one of these."""
    if isinstance(value, (bool, int, float)):
        return safe_json(value)
    if name in _NUMBERS:
        return None
    if type(value) is str:
        return value if _SETTING.fullmatch(value) and scrub_text(value) is value else None
    if isinstance(value, (list, tuple)):
        texts = [safe_text(scrub_text(item), 128) for item in value[:16] if type(item) is str]
        return value if texts == value else texts  # type: ignore[return-value]  # equal to a list of texts
    if isinstance(value, Mapping):
        about: dict[str, JSON] = {key: _setting(key, value[key]) for key in _ABOUT if type(value.get(key)) is str}
        return about or None
    return None


__all__ = ["Capture", "ContentPolicy", "Redact"]
