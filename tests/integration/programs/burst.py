"""A burst of spans, as fast as they can be made; it tells its own numbers and lives until all is delivered.

    python -m tests.integration.programs.burst NAME TRACES EACH [leave | bolt]

TRACES trees of EACH model calls below one agent. On standard output, JSON: how long the burst took, whether all was
delivered, the receipt. Where it is to leave, it does so as soon as the spans have ended, and to bolt, at once: then it
tells how long the burst took, and the moment of the last line in monotonic seconds.
"""

from __future__ import annotations

import json
import sys
import time

import otel_agentbus as agentbus

#: Seconds until all must be delivered.
PATIENCE_S = 120.0


def burst(name: str, traces: int, each: int) -> None:
    """All at once."""
    for number in range(traces):
        with agentbus.agent("burst", provider="openai", model="gpt-5-mini", invocation_id=f"{name}-{number}") as run:
            for call_id in range(each):
                with run.llm(call_id=str(call_id)) as call:
                    call.record(input_tokens=call_id, output_tokens=1)


def wait_for(bus: agentbus.Bus, spans: int) -> None:
    """Until so many spans have ended."""
    until = time.monotonic() + PATIENCE_S
    while bus.health()["spans"]["ended"] < spans and time.monotonic() < until:
        time.sleep(0.01)


def main() -> None:
    """Observe, make the burst, wait."""
    name, traces, each = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    bus = agentbus.connect()
    began = time.monotonic()
    burst(name, traces, each)
    took = time.monotonic() - began
    if sys.argv[4:]:
        if sys.argv[4] == "leave":
            wait_for(bus, traces * (1 + each))
        print(json.dumps({"took": took, "last": time.monotonic()}), flush=True)
        return
    delivered = bus.flush(PATIENCE_S)
    while not delivered and time.monotonic() < began + PATIENCE_S:
        time.sleep(0.2)
        delivered = bus.flush(PATIENCE_S)
    print(json.dumps({"took": took, "delivered": delivered, "health": bus.health()}), flush=True)


if __name__ == "__main__":
    main()
