"""Three agents answer a question: what `otel-agentbus demo` runs, and an example of how to observe a program of yours.

A planner uses a researcher as a tool, then a writer, who streams. Whatever is ours is written `agentbus.something`;
models, search and pages are stand-ins. It runs alone, too: `python -m otel_agentbus.cli.scenario`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import otel_agentbus as agentbus
from otel_agentbus.cli import standins

QUESTION = "Can sodium-ion batteries replace lithium on the grid?"

T = TypeVar("T")


class Newsroom:
    """The three agents, and the bus on which they publish what matters to the application itself."""

    #: What one question may cost: a budget without a window is for each run by itself.
    BUDGET = agentbus.Budget("question", usd=0.02)

    def __init__(self, bus: agentbus.Bus) -> None:
        self.bus = bus
        self.models = standins.Models()

    async def answer(self, question: str) -> str:
        """The planner. Whatever starts in this block, in whatever task, is nested under it."""
        with agentbus.agent("planner", provider="openai", model="gpt-5-mini", input=question) as run:
            with run.llm(messages_count=2) as call:
                plan = await self.models.plan()
                call.record(**plan.usage())

            with run.tool("research", arguments={"question": question}) as tool:
                findings = await self.research(question)  # an agent as a tool: its run is nested under this call
                tool.record(result=findings)

            report = "".join([chunk async for chunk in self.write(findings)])

            with run.llm(messages_count=4) as call:
                verdict = await self.models.verdict()
                call.record(**verdict.usage())

            self.bus.emit(agentbus.events.TurnComplete())
            run.record(output=report)
            return report

    @agentbus.agent("researcher", provider="anthropic", model="claude-haiku-4-5")
    async def research(self, question: str) -> str:
        """The researcher. As a decorator, a block is one run for each call of the function."""
        if standins.remembered(question):
            self.bus.emit(agentbus.events.CacheHit(cache_type="semantic", tokens_saved=1_850))
        await self.ask(self.models.queries)
        pages = await first_of(self.search("eu"), self.search("us"))
        texts = await asyncio.gather(*map(self.read, pages), return_exceptions=True)
        kept = [text for text in texts if isinstance(text, str)]
        self.bus.publish("sources_ranked", {"found": len(pages), "kept": len(kept)})
        return await self.ask(self.models.digest)

    async def ask(self, model: Callable[[], Awaitable[standins.Reply]]) -> str:
        """Every attempt is a model call of its own: one that is refused ends with its error."""
        for attempt in range(3):
            try:
                with agentbus.llm(messages_count=3) as call:  # of the run that is current here
                    reply = await model()
                    call.record(**reply.usage())
                    return reply.text
            except standins.RateLimited:
                await asyncio.sleep(0.06 * 2**attempt)
        raise standins.RateLimited("given up")

    async def search(self, mirror: str) -> list[str]:
        """A tool; keywords of your own become attributes of its span."""
        with agentbus.tool("search", mirror=mirror) as tool:
            pages = await standins.search(mirror)
            tool.record(result=pages)
            return pages

    async def read(self, page: str) -> str:
        """A tool that may fail: an exception ends the block with its error, and goes on to whoever handles it."""
        with agentbus.tool("read_page", page=page):
            return await standins.read(page)

    @agentbus.agent("writer", provider="anthropic", model="claude-sonnet-4-5")
    async def write(self, findings: str) -> AsyncIterator[str]:
        """The writer, a generator: its run lasts as long as its reader reads, and what is current stays in here."""
        words = 0
        with agentbus.llm(stream=True, messages=[findings]) as call:
            async for chunk in agentbus.stream(self.models.report()):  # measures the time to the first chunk
                words += len(chunk.split())
                yield chunk
            call.record(**standins.REPORT.usage())
        self.bus.publish("draft_ready", {"words": words})


async def first_of(*attempts: Coroutine[Any, Any, T]) -> T:
    """The first result; the slower attempts are cancelled, which their spans say, and which is no error."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(attempt) for attempt in attempts]
        done, late = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in late:
            task.cancel()
    return done.pop().result()


def operate(bus: agentbus.Bus) -> None:
    """What happens around agents, told as it is found out: some of it some time after it happened."""
    now_ns, minute = time.time_ns(), 60_000_000_000
    emit, events = bus.emit, agentbus.events
    emit(events.ChannelMessage(channel="cli", direction="inbound"))
    emit(events.ChannelMessage(channel="cli", direction="outbound"))
    emit(events.CacheMiss(cache_type="semantic"))
    emit(events.Error(component="search", message="the mirror us is slow"))
    emit(events.HeartbeatTick())
    with agentbus.llm(
        "qwen3:8b", provider="ollama", messages_count=1
    ) as call:  # a local one: nobody has said its price
        call.record(input_tokens=210, output_tokens=12)
    emit(events.DeploymentStarted(deploy_id="prompts-41", time_ns=now_ns - 18 * minute))
    emit(events.DeploymentFailed(deploy_id="prompts-41", reason="evals below 0.9", time_ns=now_ns - 16 * minute))
    emit(events.RecoveryCompleted(deploy_id="prompts-41", time_ns=now_ns - 11 * minute))
    emit(events.DeploymentStarted(deploy_id="prompts-42", time_ns=now_ns - 9 * minute))
    emit(events.DeploymentCompleted(deploy_id="prompts-42", commit_sha=standins.COMMIT, time_ns=now_ns - 7 * minute))


def main() -> None:
    """Observe, and run the program."""
    with agentbus.connect(budgets=[Newsroom.BUDGET]) as bus:  # where to, the OTEL_* variables say
        print(asyncio.run(Newsroom(bus).answer(QUESTION)))


if __name__ == "__main__":
    main()
