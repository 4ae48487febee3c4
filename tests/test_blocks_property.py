"""Random programs of blocks: whatever is interleaved, every block's parent is the innermost one where it began."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from opentelemetry import trace

import otel_agentbus as agentbus
from otel_agentbus import InvocationExecutor, current
from otel_agentbus.testing import Captured, capture

from .observing import assert_balanced, label, parents, starts

KINDS = ("agent", "llm", "tool")


def spans_parents(seen: Captured) -> dict[str, str | None]:
    """Every span's parent, by the labels of their blocks."""
    spans = {span.name.partition(" ")[2]: span for span in seen.spans}
    names = {span.context.span_id: name for name, span in spans.items() if span.context}
    return {name: None if span.parent is None else names[span.parent.span_id] for name, span in spans.items()}


@dataclass(eq=False)
class Model:
    """A block as the test knows it."""

    name: str
    kind: str
    block: Any
    parent: str | None
    ended: bool = False


@dataclass
class Place:
    """A context of the program's, and the blocks that were entered in it or came with it."""

    context: contextvars.Context
    entered: list[Model] = field(default_factory=list)

    def innermost(self) -> Model | None:
        return next((model for model in reversed(self.entered) if not model.ended), None)


class Interleaving(RuleBasedStateMachine):
    """Blocks that begin and end in any order, in any context; contexts are copied as tasks copy them."""

    @initialize()
    def connect(self) -> None:
        self.capture = capture()
        self.seen = self.capture.__enter__()
        self.places = [Place(contextvars.Context())]
        self.models: list[Model] = []
        self.names = (f"b{number}" for number in itertools.count())

    @rule(where=st.integers(0, 5), kind=st.sampled_from(KINDS))
    def begin(self, where: int, kind: str) -> None:
        place = self.places[where % len(self.places)]
        above, name = place.innermost(), next(self.names)
        block = getattr(agentbus, kind)(name)
        place.context.run(block.start)
        model = Model(name, kind, block, above.name if above else None)
        place.entered.append(model)
        self.models.append(model)

    @rule(where=st.integers(0, 5), which=st.integers(0, 20), error=st.sampled_from([None, ValueError("bad")]))
    def end(self, where: int, which: int, error: Exception | None) -> None:
        if self.models:
            model = self.models[which % len(self.models)]
            self.places[where % len(self.places)].context.run(model.block.end, error)
            model.ended = True

    @rule(where=st.integers(0, 5))
    def end_innermost(self, where: int) -> None:
        place = self.places[where % len(self.places)]
        model = place.innermost()
        if model is not None:
            place.context.run(model.block.end)
            model.ended = True

    @rule(where=st.integers(0, 5))
    def copy(self, where: int) -> None:
        place = self.places[where % len(self.places)]
        if len(self.places) < 6:
            self.places.append(Place(place.context.copy(), list(place.entered)))

    @rule(where=st.integers(0, 5))
    def look(self, where: int) -> None:
        place = self.places[where % len(self.places)]
        model = place.innermost()
        expected = model.block.invocation if model is not None and model.block.invocation.id else None
        assert place.context.run(current) is expected

    def teardown(self) -> None:
        for model in reversed(self.models):
            model.block.end()
        for place in self.places:
            assert place.context.run(current) is None
        self.capture.__exit__(None, None, None)
        assert_balanced(self.seen)
        expected = {model.name: model.parent for model in self.models}
        assert parents(self.seen) == expected
        assert spans_parents(self.seen) == expected


Interleaving.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestInterleaving = Interleaving.TestCase


# -- tasks and threads -------------------------------------------------------------------------------------------------

#: A program: blocks with a body, pauses, tasks that are awaited at the end of their block or outlive it, threads.
program = st.recursive(
    st.just(("pause",)),
    lambda inner: st.lists(
        st.just(("pause",))
        | st.tuples(st.sampled_from(KINDS), inner)
        | st.tuples(st.sampled_from(["task", "late task", "thread", "pool", "stream"]), inner),
        max_size=4,
    ),
    max_leaves=12,
)


class Interpreter:
    """Runs a program, and knows what its tree must be: lexically, but for tasks that outlive what they came from."""

    def __init__(self) -> None:
        self.expected: dict[str, str | None] = {}
        self.names = (f"b{number}" for number in itertools.count())
        self.late: list[asyncio.Task[None]] = []
        self.gate = asyncio.Event()
        self.pool = InvocationExecutor(2)

    def begin(self, kind: str, chain: list[Model]) -> Model:
        name = next(self.names)
        living = next((model for model in reversed(chain) if not model.ended), None)
        if living is None and any(model.kind == "agent" for model in chain):
            living = chain[-1]  # all are over: what is late still belongs to its run
        self.expected[name] = living.name if living is not None else None
        return Model(name, kind, getattr(agentbus, kind)(name), self.expected[name])

    async def run(self, steps: Any, chain: list[Model]) -> None:
        tasks: list[asyncio.Task[None]] = []
        for step in steps if isinstance(steps, list) else [steps]:
            what, body = step[0], step[1] if len(step) > 1 else ()
            if what == "pause":
                await asyncio.sleep(0)
            elif what in KINDS:
                model = self.begin(what, chain)
                async with model.block:
                    await self.run(body, [*chain, model])
                    model.ended = True  # for whoever looks after the end
            elif what == "task":
                tasks.append(asyncio.create_task(self.run(body, list(chain))))
            elif what == "late task":
                self.late.append(asyncio.create_task(self.run_late(body, list(chain))))
            elif what == "stream":
                await self.read_stream(body, chain)
            else:
                await self.run_in_thread(what, body, chain)
        for task in tasks:
            await task

    async def run_late(self, steps: Any, chain: list[Model]) -> None:
        await self.gate.wait()
        await self.run(steps, chain)

    async def run_in_thread(self, what: str, steps: Any, chain: list[Model]) -> None:
        def work() -> None:
            asyncio.run(self.run(only_blocks(steps), list(chain)))

        if what == "thread":
            await asyncio.to_thread(work)
        else:
            await asyncio.wrap_future(self.pool.submit(work))

    async def read_stream(self, steps: Any, chain: list[Model]) -> None:
        model = self.begin("agent", chain)

        async def generate() -> Any:
            for step in steps if isinstance(steps, list) else [steps]:
                await self.run([step], [*chain, model])
                yield step
            model.ended = True

        before = current()
        async for _ in model.block.stream(generate()):
            assert current() is before


def only_blocks(steps: Any) -> Any:
    """The program without tasks of the outer loop: a thread has a loop of its own."""
    if not isinstance(steps, list):
        return steps
    return [
        (step[0], only_blocks(step[1])) if len(step) > 1 else step
        for step in steps
        if step[0] in (*KINDS, "pause", "task", "stream")
    ]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program)
def test_any_program_of_tasks_threads_and_streams_gives_its_own_tree(steps: Any) -> None:
    async def main() -> None:
        interpreter = Interpreter()
        await interpreter.run(steps, [])
        interpreter.gate.set()
        for task in interpreter.late:  # grows while it is walked
            await task
        interpreter.pool.shutdown()
        assert parents(seen) == interpreter.expected
        assert spans_parents(seen) == interpreter.expected

    with capture() as seen:
        asyncio.run(main())
        assert current() is None
        assert trace.get_current_span() is trace.INVALID_SPAN
    assert_balanced(seen)
    assert len({label(event) for event in starts(seen.events)}) == len(starts(seen.events))
