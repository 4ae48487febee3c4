"""Agents whose every span, token and billionth of a dollar is known beforehand: `run_of` says all of it.

    python -m tests.integration.programs.relay_troupe NAME PROCESS PROCESSES RUNS RATE DIRECTORY

Run as a program it is one of PROCESSES processes, and works through RUNS runs at RATE events per second. Some
sub-agents work in the next process: what carries them there stands in a file of DIRECTORY. Some runs stay open until
standard input ends. On standard output, JSON: "done", when nothing but these is left; then the receipt.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import otel_agentbus as agentbus
from otel_agentbus import Bus
from otel_agentbus.calls import ToolBlock
from otel_agentbus.observe import AgentBlock

#: The first runs of each process stay open for as long as the test takes.
LONG = 8
#: How many runs are under way at once, besides these.
AT_ONCE = 12
#: Above so many events that wait for the background one pauses, as an agent would wait for its model.
QUEUED = 10_000

#: USD per million tokens, of a model that no public list knows.
PRICES = """
[[price]]
provider = "house"
model = "house-1"
input = 0.3
output = 1.7
"""


# -- the plan ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call:
    """One model call."""

    local: str
    input: int
    output: int
    #: What the provider reports, in USD; None: it is the price list that says.
    cost: float | None
    fails: bool


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool call, with the agent that works in it: here, in a thread, or in the next process."""

    local: str
    name: str
    fails: bool
    agent: Agent | None = None
    where: str = "here"


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent's run: its steps one after the other, all of a step at once. An empty one is to wait for the end."""

    id: str
    name: str
    steps: tuple[tuple[Call | Tool, ...], ...]


@dataclass(frozen=True, slots=True)
class Planned:
    """A span of the plan: what identifies it, the one above it, and what it is."""

    key: tuple[str, str, str]
    parent: tuple[str, str, str] | None
    name: str
    what: Agent | Call | Tool


class Author:
    """Invents one run: the same for the same process and number."""

    def __init__(self, name: str, process: int, number: int) -> None:
        self._dice = random.Random(f"{process} {number}")
        self._root = f"{name}-{process}-{number}"
        self._number = number
        self._calls = 0

    def run(self) -> Agent:
        """The run, from its root on."""
        steps: list[tuple[Call | Tool, ...]] = []
        for turn in range(self._dice.randint(1, 3)):
            steps += [(self._call(f"plan {turn}"),), self._tools(self._root, turn, self._dice.randint(1, 3))]
        if self._number < LONG:
            steps.insert(max(2, len(steps) // 2), ())  # what works elsewhere has begun by then
        return Agent(self._root, f"planner {self._number % 3}", (*steps, (self._call("verdict"),)))

    def _tools(self, run: str, turn: int, many: int) -> tuple[Tool, ...]:
        return tuple(self._tool(f"{run}/{turn}.{each}", each) for each in range(many))

    def _tool(self, place: str, each: int) -> Tool:
        local = place.rpartition("/")[2]
        where = "here"
        if place == f"{self._root}/0.0" and self._number % 4 == 0:
            where = "elsewhere"
        elif self._dice.random() < 0.05:
            where = "thread"
        return Tool(local, f"tool {each}", self._dice.random() < 0.1, self._helper(place), where)

    def _helper(self, place: str) -> Agent:
        first = [self._call(str(call)) for call in range(self._dice.randint(1, 2))]
        steps: list[tuple[Call | Tool, ...]] = [(call,) for call in first]
        if place.count("/") < 2 and self._dice.random() < 0.3:
            steps.append(self._tools(place, 0, 1))
        elif self._dice.random() < 0.5:
            steps.append((Tool("look", "look", fails=False), Tool("listen", "listen", fails=False)))
        return Agent(place, f"helper {self._number % 2}", tuple(steps))

    def _call(self, local: str) -> Call:
        self._calls += 1
        number = self._number * 64 + self._calls
        reported = self._dice.random() < 0.5
        return Call(
            local,
            200 + number * 7919 % 9973,
            number * 104_729 % 1999,
            number * 1.37e-7 if reported else None,
            self._dice.random() < 0.05,
        )


def run_of(name: str, process: int, number: int) -> Agent:
    """The run of this number of this process."""
    return Author(name, process, number).run()


def spans_of(agent: Agent, parent: tuple[str, str, str] | None = None) -> Iterator[Planned]:
    """All spans of a run; a key is kind, run and local id."""
    own = ("agent", agent.id, "")
    yield Planned(own, parent, f"invoke_agent {agent.name}", agent)
    for part in (part for step in agent.steps for part in step):
        if isinstance(part, Call):
            model = "house-1" if part.cost is None else "gpt-5-mini"
            yield Planned(("llm", agent.id, part.local), own, f"chat {model}", part)
        else:
            key = ("tool", agent.id, part.local)
            yield Planned(key, own, f"execute_tool {part.name}", part)
            if part.agent is not None:
                yield from spans_of(part.agent, key)


def handed(agent: Agent) -> Agent | None:
    """The agent of this run that works in the next process."""
    for part in (part for step in agent.steps for part in step):
        if isinstance(part, Tool) and part.where == "elsewhere":
            return part.agent
    return None


# -- the program -------------------------------------------------------------------------------------------------------


class Troupe:
    """The agents of one process."""

    def __init__(self, bus: Bus, arguments: list[str]) -> None:
        self._bus = bus
        self._name = arguments[0]
        self._process, self._processes, self._runs = map(int, arguments[1:4])
        self._rate = float(arguments[4])
        self._directory = Path(arguments[5])
        self._next = self._directory / f"{self._name}-{(self._process + 1) % self._processes}.handed"
        self._mine = self._directory / f"{self._name}-{self._process}.handed"
        self._end = asyncio.Event()
        self._began = time.monotonic()

    async def work(self) -> None:
        """All runs, and what the process before this one hands on; in the end, those that have waited for that."""
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, sys.stdin.read).add_done_callback(lambda _: self._end.set())
        waiting = [asyncio.create_task(self._run(number)) for number in range(LONG)]
        numbers = iter(range(LONG, self._runs))
        await asyncio.gather(self._taken(), *(self._share(numbers) for _ in range(AT_ONCE)))
        say(done=self._process)
        await asyncio.gather(*waiting)

    async def _share(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            await self._run(number)
            emitted = self._bus.health()["events"] if number % 10 == 0 else None
            if emitted is not None:
                ahead = emitted["emitted"] / self._rate - (time.monotonic() - self._began)
                await asyncio.sleep(max(ahead, 0.05 if emitted["queued"] > QUEUED else 0.0))

    async def _run(self, number: int) -> None:
        await self._play(run_of(self._name, self._process, number), number)

    async def _taken(self) -> None:
        """What the process before this one has handed on."""
        before = (self._process - 1) % self._processes
        left = sum(handed(run_of(self._name, before, number)) is not None for number in range(self._runs))
        at = 0
        while left:
            lines = read_lines(self._mine)[at:]
            at, left = at + len(lines), left - len(lines)
            for line in lines:
                told = json.loads(line)
                agent = handed(run_of(self._name, before, told["number"]))
                assert agent is not None
                with agentbus.resume(told["carrier"]):
                    await self._play(agent, told["number"])
            await asyncio.sleep(0.02)

    async def _play(self, agent: Agent, number: int) -> None:
        """One agent's run."""
        with agentbus.agent(agent.name, invocation_id=agent.id) as run:
            for step in agent.steps:
                if not step:
                    await self._end.wait()
                await asyncio.gather(*(self._do(run, part, number) for part in step))

    async def _do(self, run: AgentBlock, part: Call | Tool, number: int) -> None:
        try:
            if isinstance(part, Call):
                await ask(run, part)
            else:
                with run.tool(part.name, tool_call_id=part.local) as block:
                    await self._use(block, part, number)
        except ValueError:
            pass

    async def _use(self, _block: ToolBlock, part: Tool, number: int) -> None:
        if part.agent is not None and part.where == "elsewhere":
            told = json.dumps({"number": number, "carrier": dict(agentbus.inject())})
            with self._next.open("ab", buffering=0) as file:
                file.write(f"{told}\n".encode())
        elif part.agent is not None and part.where == "thread":
            agent = part.agent
            await asyncio.to_thread(lambda: asyncio.run(self._play(agent, number)))
        elif part.agent is not None:
            await self._play(part.agent, number)
        if part.fails:
            raise ValueError(part.name)


async def ask(run: AgentBlock, part: Call) -> None:
    """One model call."""
    provider, model = ("house", "house-1") if part.cost is None else ("openai", "gpt-5-mini")
    with run.llm(model, provider=provider, call_id=part.local) as call:
        await asyncio.sleep(0.001)
        cost: dict[str, Any] = {} if part.cost is None else {"cost_usd": part.cost}
        call.record(input_tokens=part.input, output_tokens=part.output, **cost)
        if part.fails:
            raise ValueError("the model answers nonsense")


def read_lines(path: Path) -> list[bytes]:
    """The whole lines of a file that may not be there yet."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def say(**what: Any) -> None:
    """One line."""
    print(json.dumps(what), flush=True)


def main() -> None:
    """Observe, work, account."""
    bus = agentbus.connect()
    asyncio.run(Troupe(bus, sys.argv[1:]).work())
    closed = bus.close()
    say(closed=closed, health=bus.health())


if __name__ == "__main__":
    main()
