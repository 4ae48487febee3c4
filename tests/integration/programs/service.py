"""A web service with agents in it; started twice, the one asks the other. It knows nothing of who tests it.

    service PORT NEXT sdk|ours|plain

`sdk`: the application has set up OpenTelemetry by itself, `ours`: we have (AGENTBUS_SET_GLOBAL). In both, FastAPI and
httpx are instrumented. `plain`: nothing is, and services are joined by `inject` and `resume` only.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

import otel_agentbus as agentbus

_, PORT, NEXT, WIRING = sys.argv
#: Chunks of a stream that nobody breaks off.
CHUNKS = 10_000

app = FastAPI()
client = httpx.AsyncClient(base_url=NEXT, trust_env=False, timeout=30)


def told(request: Request) -> dict[str, str]:
    """The headers that make lineage, as they came."""
    return {
        name: request.headers[name] for name in ("traceparent", "tracestate", "agentbus") if name in request.headers
    }


@app.get("/healthy")
async def healthy() -> None: ...


@app.get("/ask")
async def ask(request: Request, send: str = "") -> dict[str, Any]:
    """An agent whose model is asked of the next service; `send` has the names of what we put into headers ourselves."""
    async with agentbus.agent("asking") as run, run.llm("m") as call:
        sent = {name: text for name, text in agentbus.inject().items() if name in send.split()}
        answer = (await client.get("/resumed" if send else "/answer", headers=sent)).json()
        call.record(input_tokens=1, output_tokens=1)
    return {"came": told(request), "root": run.invocation.root_id, "call": call.id, "next": answer}


@app.get("/answer")
async def answer(request: Request) -> dict[str, Any]:
    """The next service's agent, under the request's span if there is one."""
    return await _answer(request)


@app.get("/resumed")
async def resumed(request: Request) -> dict[str, Any]:
    """The same as a sub-agent of whoever asks; this way is never instrumented."""
    with agentbus.resume(request.headers):
        return await _answer(request)


async def _answer(request: Request) -> dict[str, Any]:
    async with agentbus.agent("answering") as run, run.tool("look up"):
        await asyncio.sleep(0)
        onward = dict(agentbus.inject())
    found = run.invocation
    return {"came": told(request), "onward": onward, "root": found.root_id, "parent": found.parent_id, "id": run.id}


async def _chunks() -> AsyncIterator[str]:
    async with agentbus.agent("telling") as run, run.llm("m", stream=True):
        yield f"{run.id}\n"
        for number in range(CHUNKS):
            yield f"{number}\n" * 1000
            await asyncio.sleep(0.001)


@app.get("/tell")
async def tell() -> StreamingResponse:
    """An agent that is held by the generator of a streamed answer."""
    return StreamingResponse(_chunks())


@app.get("/told")
async def told_by_stream() -> StreamingResponse:
    """The same, stepped by us."""
    return StreamingResponse(agentbus.stream(_chunks()))


def set_up_as_an_application_does() -> None:
    from opentelemetry import metrics, trace
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())]))


def main() -> None:
    if WIRING == "sdk":
        set_up_as_an_application_does()
    with agentbus.connect(set_global=True if WIRING == "ours" else None):
        if WIRING != "plain":
            from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
            from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

            FastAPIInstrumentor.instrument_app(app, excluded_urls="healthy,resumed", exclude_spans=["receive", "send"])
            HTTPXClientInstrumentor.instrument_client(client)
        uvicorn.run(app, host="127.0.0.1", port=int(PORT), log_level="info", access_log=False)


if __name__ == "__main__":
    main()
