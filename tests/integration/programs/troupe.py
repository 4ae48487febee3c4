"""A troupe of agents in threads and tasks, whose ids and tokens are known beforehand; it tells what it has emitted.

    python -m tests.integration.programs.troupe NAME RUNS TELLING [LINGER]

RUNS runs in each of three threads, or for ever where it is 0; then it lingers while anything is spooled, LINGER seconds
at most. Each line of the file TELLING was written when the emit of
which it tells had returned: tab-separated `start` or `end`, what began or ended, its run's root, its run, its own id
within the run, the moment (monotonic nanoseconds). The file survives a SIGKILL.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import otel_agentbus as agentbus
from otel_agentbus.calls import LlmBlock, ToolBlock
from otel_agentbus.observe import AgentBlock

THREADS = 3
TOOLS = ("search", "read_page", "calculate")


class Line(NamedTuple):
    """What the program tells of one emit."""

    at: str
    kind: str
    root: str
    run: str
    local: str
    ns: str

    @property
    def what(self) -> tuple[str, str, str, str]:
        """Which span it is about."""
        return self.kind, self.root, self.run, self.local


def tokens_of(root: str, run: str, local: str) -> int:
    """How many tokens a model call takes: one can see from the number which call it was, whatever the name."""
    _name, thread, number = root.rsplit("-", 2)
    return crc32(f"{thread} {number} {run.removeprefix(root)} {local}".encode()) % 100_000


class Troupe:
    """The agents of one process."""

    def __init__(self, name: str, telling: int) -> None:
        self.name = name
        self._telling = telling

    def tell(self, at: str, kind: str = "", root: str = "", run: str = "", local: str = "") -> None:
        """One line, whole: so short a write is not divided."""
        line = Line(at, kind, root, run, local, str(time.monotonic_ns()))
        os.write(self._telling, ("\t".join(line) + "\n").encode())

    @contextmanager
    def told(self, block: AgentBlock | LlmBlock | ToolBlock) -> Iterator[None]:
        """The block, told of."""
        with block:
            lineage = block.invocation
            what = block.kind, lineage.root_id, lineage.id, block.local_id
            self.tell("start", *what)
            yield
        self.tell("end", *what)

    def work(self, thread: int, runs: int) -> None:
        """One thread's runs."""
        for number in range(runs) if runs else count():
            asyncio.run(self.answer(f"{self.name}-{thread}-{number}"))

    async def answer(self, root: str) -> None:
        """The planner: a model call, three tools at once in each of which another agent works, a model call."""
        planner = agentbus.agent("planner", provider="openai", model="gpt-5-mini", invocation_id=root)
        with self.told(planner):
            await self.ask(planner, root, "plan")
            await asyncio.gather(*(self.use(planner, root, tool) for tool in TOOLS))
            await self.ask(planner, root, "verdict")

    async def ask(self, run: AgentBlock, root: str, call_id: str) -> None:
        """One model call."""
        call = run.llm(call_id=call_id)
        with self.told(call):
            await asyncio.sleep(0.005)
            call.record(input_tokens=tokens_of(root, run.invocation.id, call_id), output_tokens=7)

    async def use(self, planner: AgentBlock, root: str, name: str) -> None:
        """One tool call; the agent in it works in this task or in a thread."""
        with self.told(planner.tool(name, tool_call_id=f"call {name}")):
            if name == "calculate":
                await asyncio.to_thread(lambda: asyncio.run(self.help(root, name)))
            else:
                await self.help(root, name)

    async def help(self, root: str, tool: str) -> None:
        """The sub-agent."""
        helper = agentbus.agent(f"{tool} expert", invocation_id=f"{root}/{tool}", model="claude-haiku-4-5")
        with self.told(helper):
            await self.ask(helper, root, "1")
            await self.ask(helper, root, "2")


#: The spans of one run: the planner with 2 model calls, 3 tools, and in each an agent with 2 model calls.
SPANS = 1 + 2 + len(TOOLS) * (1 + 1 + 2)


def read(path: str | os.PathLike[str]) -> list[Line]:
    """What a program told, and completely."""
    with open(path, encoding="utf-8", newline="") as file:
        return [Line(*line.rstrip("\n").split("\t")) for line in file if line.endswith("\n")]


def linger(seconds: float) -> None:
    """Live on while anything is spooled."""
    spool, until = Path(os.environ["AGENTBUS_SPOOL_DIR"]), time.monotonic() + seconds
    while time.monotonic() < until:
        if not any(spool.rglob("*.seg")):
            break
        time.sleep(0.1)


def main() -> None:
    """Observe, and have the threads work; the interpreter's end closes what is to be closed."""
    name, runs, telling = sys.argv[1], int(sys.argv[2]), os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    seconds = float(sys.argv[4]) if len(sys.argv) > 4 else 0.0
    bus = agentbus.connect()
    troupe = Troupe(name, telling)
    troupe.tell("ready")
    with ThreadPoolExecutor(THREADS) as threads:
        for done in [threads.submit(troupe.work, thread, runs) for thread in range(THREADS)]:
            done.result()
    if seconds:
        bus.flush()
        linger(seconds)
    troupe.tell("last")


if __name__ == "__main__":
    main()
