"""The OpenAI API as a transport without a network: it answers from the script of the example's own fake model."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
from agents import Model, OpenAIChatCompletionsModel, OpenAIResponsesModel

#: The HTTP library of this version of the client (they changed).
http: Any = importlib.import_module(openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0])

Answer = Callable[[dict[str, Any]], Any]


def client(answer: Answer, base_url: str = "https://api.openai.com/v1") -> openai.AsyncOpenAI:
    """A client whose requests `answer` answers: by a dict (JSON), a list of events (streamed) or an error's number."""

    async def handle(request: Any) -> Any:
        answered = answer(json.loads(request.content))
        if isinstance(answered, int):
            return http.Response(answered, json={"error": {"message": "not now", "type": "server_error"}})
        if isinstance(answered, list):
            return http.Response(200, headers={"content-type": "text/event-stream"}, content=stream_of(answered))
        return http.Response(200, json=answered)

    transport = http.AsyncClient(transport=http.MockTransport(handle))
    return openai.AsyncOpenAI(api_key="none", base_url=base_url, http_client=transport, max_retries=0)


async def stream_of(events: list[dict[str, Any]]) -> AsyncIterator[bytes]:
    """Events as they arrive: one at a time, with the program's turn in between."""
    for event in events:
        yield f"event: {event.get('type', 'chunk')}\ndata: {json.dumps(event)}\n\n".encode()
        await asyncio.sleep(0)
    yield b"data: [DONE]\n\n"


def chat_model(name: str, usage: tuple[int, int, int], script: dict[int, list[Any]], **options: Any) -> Model:
    """The SDK's own model of the Chat Completions API."""

    def answer(request: dict[str, Any]) -> Any:
        output = script[sum(message["role"] == "tool" for message in request["messages"])]
        return chat_chunks(name, usage, output) if request.get("stream") else chat_completion(name, usage, output)

    return OpenAIChatCompletionsModel(name, client(answer, **options))


def responses_model(name: str, usage: tuple[int, int, int], script: dict[int, list[Any]], **options: Any) -> Model:
    """The SDK's own model of the Responses API."""

    def answer(request: dict[str, Any]) -> Any:
        output = script[sum(item.get("type") == "function_call_output" for item in request["input"])]
        response = response_of(name, usage, output)
        return response_events(response) if request.get("stream") else response

    return OpenAIResponsesModel(name, client(answer, **options))


def chat_completion(name: str, usage: tuple[int, int, int], output: list[Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None}
    for item in output:
        if item.type == "message":
            message["content"] = item.content[0].text
        else:
            function = {"name": item.name, "arguments": item.arguments}
            message.setdefault("tool_calls", []).append({"id": item.call_id, "type": "function", "function": function})
    reason = "tool_calls" if "tool_calls" in message else "stop"
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": f"{name}-2026",
        "choices": [{"index": 0, "finish_reason": reason, "message": message}],
        "usage": chat_usage(usage),
    }


def chat_chunks(name: str, usage: tuple[int, int, int], output: list[Any]) -> list[dict[str, Any]]:
    said: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": name}
    words = output[0].content[0].text.split()
    chunks = [
        said | {"choices": [{"index": 0, "delta": {"role": "assistant", "content": word}, "finish_reason": None}]}
        for word in words
    ]
    last = said | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return [*chunks, last, said | {"choices": [], "usage": chat_usage(usage)}]


def chat_usage(usage: tuple[int, int, int]) -> dict[str, Any]:
    asked, answered, cached = usage
    return {
        "prompt_tokens": asked,
        "completion_tokens": answered,
        "total_tokens": asked + answered,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }


def response_of(name: str, usage: tuple[int, int, int], output: list[Any], status: str = "completed") -> dict[str, Any]:
    asked, answered, cached = usage
    return {
        "id": "resp-1",
        "object": "response",
        "created_at": 0,
        "status": status,
        "model": f"{name}-2026",
        "output": [item.model_dump(exclude_none=True) for item in output],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "service_tier": "default",
        "usage": {
            "input_tokens": asked,
            "output_tokens": answered,
            "total_tokens": asked + answered,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 1},
        },
    }


def response_events(response: dict[str, Any]) -> list[dict[str, Any]]:
    deltas = [
        {
            "type": "response.output_text.delta",
            "item_id": "message",
            "output_index": 0,
            "content_index": 0,
            "sequence_number": number,
            "delta": word,
            "logprobs": [],
        }
        for number, word in enumerate(response["output"][0]["content"][0]["text"].split())
    ]
    return [*deltas, {"type": "response.completed", "sequence_number": len(deltas), "response": response}]
