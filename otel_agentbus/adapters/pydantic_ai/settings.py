"""The global hook: pydantic-ai's instrumentation settings for every agent, chained before those set already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import Span, Tracer, TracerProvider
from pydantic_ai import Agent
from pydantic_ai.models.instrumented import InstrumentationSettings

from ..losses import Shielded
from .spans import ObservedSpan, ObservingTracer

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage, ModelResponse

_UNSEEN = Shielded("a model's answer could not be observed")


class _Provider(TracerProvider):
    """Gives one tracer, whoever asks: all that pydantic-ai wants of a provider."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def get_tracer(self, *args: Any, **kwargs: Any) -> Tracer:
        return self._tracer


class BusInstrumentation(InstrumentationSettings):
    """Instrumentation settings whose spans become our events.

    What pydantic-ai would render into attributes only for us (the whole conversation as JSON, again with each model
    call) is not rendered: the answer is taken as the object that it is. With `previous` settings all of theirs goes on
    as it was: their tracer and meter, their format, and their decision about content.

    Set for every agent by `instrument`; an agent with settings of its own takes
    `Instrumentation(settings=BusInstrumentation(its settings))` instead.
    """

    def __init__(self, previous: InstrumentationSettings | None = None, *, content: bool = True) -> None:
        self.previous = previous
        if previous is None:
            tracer = ObservingTracer(None, content=content)
            super().__init__(
                tracer_provider=_Provider(tracer),
                meter_provider=NoOpMeterProvider(),
                include_content=content,
                include_binary_content=False,
                include_model_request_parameters=False,
            )
        else:
            vars(self).update(vars(previous), previous=previous)
            tracer = ObservingTracer(previous.tracer, content=content and previous.include_content)
            self.tracer = tracer
        self.observing = tracer

    def handle_messages(
        self,
        input_messages: list[ModelMessage],
        response: ModelResponse,
        span: Span,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """The model has answered: pydantic-ai renders the messages for the application's span, if that wants them."""
        theirs: Span | None = span
        if isinstance(span, ObservedSpan):
            with _UNSEEN:
                span.answered(response)
            theirs = span.previous
        if self.previous is not None and theirs is not None and theirs.is_recording():
            self.previous.handle_messages(input_messages, response, theirs, *args, **kwargs)

    def messages_to_otel_messages(self, messages: list[ModelMessage], **kwargs: Any) -> list[Any]:
        """The messages of a whole run, for the application's span only."""
        return [] if self.previous is None else list(self.previous.messages_to_otel_messages(messages, **kwargs))

    def system_instructions_attributes(self, instructions: str | None) -> dict[str, str]:
        """The instructions of a run, for the application's span only."""
        return {} if self.previous is None else self.previous.system_instructions_attributes(instructions)

    def record_metrics(self, *args: Any, **kwargs: Any) -> None:
        """The application's metrics; ours come from the events."""
        if self.previous is not None:
            self.previous.record_metrics(*args, **kwargs)


class Instrumentation:
    """What `instrument` has set, until `off()`."""

    def __init__(self, settings: BusInstrumentation, before: InstrumentationSettings | bool) -> None:
        self.settings = settings
        self._before = before

    @property
    def chained(self) -> bool:
        """Whether the application had set up pydantic-ai's instrumentation before; its spans then go on as well."""
        return self.settings.previous is not None

    def off(self) -> None:
        """Set what was set before; settings that somebody else has set since stay. Runs go on being observed."""
        self.settings.observing.on = False
        if _in_force() is self.settings:
            Agent.instrument_all(self._before)


def instrument(*, content: bool = True) -> Instrumentation:
    """Observe every agent of this process that has no instrumentation settings of its own.

    `content=False` keeps prompts, answers, arguments and results out of the events themselves; what sinks may see of
    them is the content policy's business either way.
    """
    before = _in_force()
    previous = InstrumentationSettings() if before is True else before or None
    settings = BusInstrumentation(previous, content=content)
    Agent.instrument_all(settings)
    return Instrumentation(settings, before)


def _in_force() -> InstrumentationSettings | bool:
    return getattr(Agent, "_instrument_default", False)  # there is no public way to ask
