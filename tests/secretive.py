"""A program full of content: whatever can hold some holds a canary; the tests of secrecy run it as a process."""

from __future__ import annotations

import asyncio
import logging

from opentelemetry import trace

import otel_agentbus as agentbus
from tests.planted import TOKENS

#: One word for each place, so that a leak tells where it came from.
PLACES = [
    "input", "instructions", "prompt", "parameter", "answer", "argument", "result", "output", "raised", "tool_raised",
    "quoted", "error_event", "exception_event", "raw_request", "raw_response",
]  # fmt: skip
CANARY = {place: f"canary {place.replace('_', ' ')} ninety one thousand euros" for place in PLACES}


async def run(bus: agentbus.Bus, secret: str) -> None:
    said = {place: f"{text} {secret}" for place, text in CANARY.items()}
    asked = {"input": said["input"], "instructions": said["instructions"]}
    with agentbus.agent("a", provider="openai", model="m", **asked) as me:
        messages = [{"role": "user", "content": said["prompt"]}]
        parameters = {"temperature": 0.5, "system": said["parameter"]}
        with me.llm(messages=messages, parameters=parameters) as call:
            call.record(input_tokens=3, output_tokens=4, messages=[{"role": "assistant", "content": said["answer"]}])
        with me.tool("t", arguments={"value": said["argument"]}) as tool:
            tool.record(result={"value": said["result"]})
        try:
            with me.llm(messages=[{"role": "user", "content": said["raised"]}]):
                raise ValueError(f"cannot parse: {said['raised']!r}")
        except ValueError:
            pass
        try:
            with me.tool("t", arguments=said["tool_raised"]):
                trace.get_current_span().record_exception(RuntimeError(f"about {said['tool_raised']}"))
                raise RuntimeError(f"refused {said['tool_raised'][3:]}")
        except RuntimeError:
            pass
        bus.emit(agentbus.events.Error(component="c", message=f"lost {said['prompt']}"))
        bus.emit(
            agentbus.events.LlmRequest(
                model_provider="p", model="m", messages_count=1, call_id="raw", messages=said["raw_request"]
            )
        )
        bus.emit(
            agentbus.events.LlmResponse(
                model_provider="p",
                model="m",
                duration=0.1,
                success=False,
                call_id="raw",
                error_message=f"the model said {said['raw_request']}",
                messages=said["raw_response"],
            )
        )
        me.record(output=said["output"])


def main() -> None:
    logging.basicConfig(level=logging.DEBUG)  # all of it to stderr
    with agentbus.connect() as bus:
        for secret in TOKENS.values():
            asyncio.run(run(bus, secret))


if __name__ == "__main__":
    main()
