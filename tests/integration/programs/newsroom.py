"""The demo's program, observed as an application would be; writes what it emitted to the file named by its argument."""

from __future__ import annotations

import asyncio
import sys

import otel_agentbus as agentbus
from otel_agentbus import contract
from otel_agentbus.cli.scenario import QUESTION, Newsroom


def main() -> None:
    with open(sys.argv[1], "wb") as journal, agentbus.connect() as bus:
        bus.subscribe(lambda event: journal.write(contract.write(event) + b"\n"))
        asyncio.run(Newsroom(bus).answer(QUESTION))


if __name__ == "__main__":
    main()
