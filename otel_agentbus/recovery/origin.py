"""The provider of a process that is gone: the resource and the limits of its spans, as its opening tells them."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from ..recording import Opening, key_hash
from ..settings import Settings
from ..telemetry.names import FLAVOURS, Flavour
from ..telemetry.providers import make_resource, make_tracer_provider

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider
    from opentelemetry.sdk.trace.sampling import Sampler

_log = logging.getLogger("otel_agentbus.recovery")

#: How the SDK's samplers describe themselves, those that ask the parent included.
_SAMPLER = re.compile(r"(?:ParentBased\{root:)?(?P<name>\w+)(?:\{(?P<share>[\d.e-]+)\})?(?:,|\Z)")
_LIMITS = (
    "max_attributes",
    "max_events",
    "max_links",
    "max_span_attributes",
    "max_event_attributes",
    "max_link_attributes",
    "max_attribute_length",
    "max_span_attribute_length",
)


def opening_of(source: str, provider: object, settings: Settings) -> Opening:
    """The opening of the journal of this process, whose spans come from this provider."""
    resource = getattr(provider, "resource", None)
    limits = getattr(provider, "_span_limits", None)
    sampler = getattr(provider, "sampler", None)
    return Opening(
        source=source,
        resource={} if resource is None else dict(resource.attributes),
        schema_url="" if resource is None else resource.schema_url,
        conventions=settings.conventions,
        capture=settings.capture_content,
        limits={} if limits is None else {name: getattr(limits, name, None) for name in _LIMITS},
        sampler="" if sampler is None else sampler.get_description(),
        id_key_hash=key_hash(settings.id_key.get_secret_value()),
        grace=settings.grace,
        max_open_spans=settings.max_open_spans,
    )


def provider_of(opening: Opening | None, settings: Settings) -> TracerProvider:
    """A provider that makes the spans that the opening's process made; without an opening, as the settings say."""
    from opentelemetry.sdk.trace import TracerProvider

    resource = resource_of(opening, settings)
    ours = make_tracer_provider(settings, resource)
    if opening is None:
        return ours
    sampler = _sampler(opening.sampler) or ours.sampler
    return TracerProvider(
        sampler=sampler,
        resource=resource,
        shutdown_on_exit=False,
        id_generator=ours.id_generator,
        span_limits=_limits(opening),
    )


def _sampler(description: str) -> Sampler | None:
    """The sampler that decides of the roots for which no caller had to decide; None of one that is not the SDK's."""
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, TraceIdRatioBased

    found = _SAMPLER.match(description)
    if found is None:
        return None
    known = {"AlwaysOnSampler": ALWAYS_ON, "AlwaysOffSampler": ALWAYS_OFF}
    try:
        return TraceIdRatioBased(float(found["share"])) if found["share"] else known.get(found["name"])
    except ValueError:  # no share at all
        return None


def resource_of(opening: Opening | None, settings: Settings) -> Resource:
    """The resource of the opening's process; without an opening, one of this process."""
    from opentelemetry.sdk.resources import Resource

    if opening is None:
        return make_resource(settings)
    return Resource(dict(opening.resource), opening.schema_url)


def flavour_of(opening: Opening | None, settings: Settings) -> Flavour:
    """The conventions by which the opening's process named its attributes."""
    said: Any = None if opening is None else opening.conventions
    if opening is not None and said not in FLAVOURS:
        _log.warning("%s wrote in the conventions %r, which are not known here", opening.source, said)
    return said if said in FLAVOURS else settings.conventions


def _limits(opening: Opening) -> SpanLimits | None:
    from opentelemetry.sdk.trace import SpanLimits

    if not opening.limits:
        return None
    # None would make the SDK read the environment of this process
    said = {name: opening.limits.get(name) for name in _LIMITS}
    return SpanLimits(**{name: SpanLimits.UNSET if limit is None else limit for name, limit in said.items()})
