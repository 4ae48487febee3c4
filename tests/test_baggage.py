"""Baggage goes along in carriers by name only, comes in from trusted ones only, and never into a model's requests."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote_plus

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from opentelemetry import baggage, context
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider

import otel_agentbus as agentbus
from otel_agentbus import extract, inject, resume
from otel_agentbus.testing import Captured, capture

from .hostile import Broken
from .receivers import in_a_process_of_its_own
from .test_live import ForeignProvider

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
FOREIGN = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
ALLOWED = ("tenant", "plan")


@pytest.fixture
def seen() -> Iterator[Captured]:
    with capture(baggage=ALLOWED) as captured:
        yield captured


@pytest.fixture(autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    before = context.get_current()
    yield
    left = context.get_current()
    context.attach(before)
    assert left is before


class Holding:
    """Baggage that the program has put into its context."""

    def __init__(self, entries: dict[str, Any]) -> None:
        self._entries = entries

    def __enter__(self) -> None:
        here = context.get_current()
        for name, value in self._entries.items():
            here = baggage.set_baggage(name, value, here)
        self._token = context.attach(here)

    def __exit__(self, *_: object) -> None:
        context.detach(self._token)


def told_by(header: str | None) -> dict[str, object]:
    """What a header says to whoever reads it, by the official propagator."""
    return dict(
        baggage.get_all(W3CBaggagePropagator().extract({} if header is None else {"baggage": header}, Context()))
    )


def held() -> dict[str, object]:
    return dict(baggage.get_all())


# -- what leaves -------------------------------------------------------------------------------------------------------


def test_only_what_is_named_leaves(seen: Captured) -> None:
    with Holding({"tenant": "acme", "session": "secret", "Tenant": "other", "plan": "a b,c;d=e"}), agentbus.agent("a"):
        carrier = inject()
    assert sorted(carrier) == ["agentbus", "baggage", "traceparent"]
    assert told_by(carrier["baggage"]) == {"tenant": "acme", "plan": "a b,c;d=e"}
    assert "secret" not in str(carrier)


def test_nothing_leaves_unless_it_is_asked_for() -> None:
    with capture(), Holding({"tenant": "acme"}), agentbus.agent("a"):
        assert sorted(inject()) == ["agentbus", "traceparent"]


def test_nothing_leaves_where_telemetry_is_switched_off() -> None:
    with capture(baggage=ALLOWED, sdk_disabled=True), Holding({"tenant": "acme"}), agentbus.agent("a"):
        assert list(inject()) == ["agentbus"]
        with resume({"agentbus": "1;k;r;;1;;a;a", "baggage": "plan=gold"}):
            assert held() == {"tenant": "acme"}


def test_what_the_application_has_written_there_itself_is_kept(seen: Captured) -> None:
    with Holding({"tenant": "acme", "session": "secret"}):
        carrier = inject({"baggage": "mine=1;p=2,tenant=of+before"})
    assert carrier == {"baggage": "mine=1;p=2,tenant=acme"}
    assert inject({"baggage": "mine=1"}) == {"baggage": "mine=1"}


def test_a_value_that_no_header_takes_costs_neither_the_others_nor_the_run(seen: Captured) -> None:
    for value in (Broken(), "\ud800", "x" * 4097):
        with Holding({"tenant": value, "plan": "gold"}), agentbus.agent("a"):
            carrier = inject()
        assert carrier["baggage"] == "plan=gold"
        assert sorted(carrier) == ["agentbus", "baggage", "traceparent"]


@pytest.mark.parametrize(
    ("entries", "written"),
    [
        ({f"n{number}": "x" for number in range(200)}, 180),
        ({f"n{number}": "x" * 1000 for number in range(20)}, 8),
        ({"n0": "x" * (4096 - 3), "n1": "y" * (4096 - 4)}, 2),
        ({"n0": "x" * (4096 - 2), "n1": "y"}, 1),
    ],
)
def test_no_more_leaves_than_a_header_may_have(
    entries: dict[str, str], written: int, caplog: pytest.LogCaptureFixture
) -> None:
    with capture(baggage=tuple(entries)), Holding(entries):
        header = inject()["baggage"]
    assert len(header) <= 8192
    assert len(told_by(header)) == len(header.split(",")) == written
    assert told_by(header).items() <= entries.items()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_beside_what_is_there_already_it_does_not_grow_too_long(seen: Captured) -> None:
    there = "mine=" + "x" * 4000 + ",other=" + "x" * 4000
    with Holding({"tenant": "t" * 3000}):
        assert inject({"baggage": there}) == {"baggage": there}


# -- what comes in -----------------------------------------------------------------------------------------------------


def test_what_is_named_is_there_inside_of_a_trusted_carrier_and_gone_afterwards(seen: Captured) -> None:
    carrier = {**FOREIGN, "agentbus": "1;k;r;;1;;a;a", "baggage": "tenant=acme,session=secret,plan=a+b%2Cc"}
    with Holding({"own": "1", "plan": "mine"}):
        with resume(carrier):
            assert held() == {"own": "1", "plan": "a b,c", "tenant": "acme"}
            with agentbus.agent("b"), agentbus.tool("t"):
                assert held() == {"own": "1", "plan": "a b,c", "tenant": "acme"}
                assert told_by(inject()["baggage"]) == {"plan": "a b,c", "tenant": "acme"}
        assert held() == {"own": "1", "plan": "mine"}


@pytest.mark.parametrize("options", [{"trusted": False}, {"policy": "link"}, {"policy": "link", "trusted": False}])
def test_by_link_and_from_strangers_nothing_comes_in(seen: Captured, options: Any) -> None:
    with resume({**FOREIGN, "baggage": "tenant=acme"}, **options):
        assert held() == {}
        with agentbus.agent("a"):
            assert "baggage" not in inject()


def test_without_an_allow_list_nothing_comes_in() -> None:
    with capture(), resume({**FOREIGN, "baggage": "tenant=acme"}):
        assert held() == {}


def test_it_comes_in_without_a_trace_context_too(seen: Captured) -> None:
    for carrier in ({"baggage": "tenant=acme"}, {"agentbus": "1;k;r;;1;;a;a", "Baggage": [b"tenant=acme"]}):
        with resume(carrier):
            assert held() == {"tenant": "acme"}


def test_nothing_is_said_of_what_is_not_read(seen: Captured, caplog: pytest.LogCaptureFixture) -> None:
    secret = "secret" * 20
    for header in (f"{secret},session={secret}\x00,=,tenant=acme,\u00e9=1", "tenant=acme,session=" + "x" * 5000):
        with resume({"baggage": header}):
            assert held() == {"tenant": "acme"}
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_several_headers_are_one() -> None:
    pairs = [(b"baggage", b"tenant=acme"), (b"other", b"1"), (b"Baggage", b"plan=gold")]
    assert extract(pairs).baggage == "tenant=acme,plan=gold"  # type: ignore[arg-type]


class Noting(SpanProcessor):
    """What span processors see of the baggage when a span starts."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, object]] = {}

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.found[span.name] = dict(baggage.get_all(parent_context))


def test_span_processors_see_it_on_every_span_below() -> None:
    noting, provider = Noting(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(noting)
    with agentbus.connect(tracer_provider=provider, settings=agentbus.Settings(baggage=ALLOWED)) as bus:
        with resume({**FOREIGN, "baggage": "tenant=acme,session=secret"}), agentbus.agent("a"):
            with agentbus.llm("m"), agentbus.tool("t"):
                pass
            with agentbus.tool("u"):
                pass
        with agentbus.agent("after"):
            pass
        bus.flush()
    tenant = {"tenant": "acme"}
    assert noting.found == {
        "invoke_agent a": tenant,
        "chat m": tenant,
        "execute_tool t": {},  # begun inside of the model call
        "execute_tool u": tenant,
        "invoke_agent after": {},
    }


def test_in_another_process_it_is_there_again(seen: Captured) -> None:
    with Holding({"tenant": "acme", "session": "secret"}), agentbus.agent("a"):
        carrier = dict(inject())
    code = """
    import json, os
    import otel_agentbus as agentbus
    from opentelemetry import baggage
    from otel_agentbus.testing import capture
    with capture(), agentbus.resume(json.loads(os.environ["CARRIER"])), agentbus.agent("b"):
        print(json.dumps([dict(baggage.get_all()), agentbus.inject().get("baggage")]))
    """
    found = in_a_process_of_its_own(code, CARRIER=json.dumps(carrier), AGENTBUS_BAGGAGE="tenant,session")
    assert found == [{"tenant": "acme"}, "tenant=acme"]


# -- model calls -------------------------------------------------------------------------------------------------------


@pytest.fixture
def requests_made() -> Iterator[tuple[httpx.Client, list[httpx.Request]]]:
    """An instrumented client, as applications have it, and what it has sent."""
    made: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        made.append(request)
        return httpx.Response(200)

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        HTTPXClientInstrumentor.instrument_client(client, tracer_provider=TracerProvider(shutdown_on_exit=False))
        yield client, made


Sent = tuple[httpx.Client, list[httpx.Request]]


def test_a_models_requests_have_nothing_of_what_a_carrier_has_brought(seen: Captured, requests_made: Sent) -> None:
    client, made = requests_made
    carrier = {**FOREIGN, "agentbus": "1;k;r;;1;talk;a;a", "baggage": "tenant=acme,plan=gold,session=secret"}
    with resume(carrier), agentbus.agent("a") as run:
        client.get("http://tool.test/")
        with run.llm("m"):
            client.post("http://model.test/")
            assert "baggage" not in inject()
        client.get("http://tool.test/")
        with run.tool("t"):
            client.get("http://tool.test/")
    sent = [told_by(request.headers.get("baggage")) for request in made]
    allowed = {"tenant": "acme", "plan": "gold"}
    assert sent == [allowed, {}, allowed, allowed]
    assert all(request.headers["traceparent"].startswith(f"00-{TRACE}-") for request in made)
    model = dict(made[1].headers)
    assert not {"baggage", "agentbus"} & set(model)
    assert not {"acme", "gold", "secret", "talk"} & set("".join(model.values()).split("="))


def test_a_models_requests_keep_what_the_program_has_put_there_itself(seen: Captured, requests_made: Sent) -> None:
    client, made = requests_made
    with Holding({"tenant": "acme"}), resume({"baggage": "tenant=acme,plan=gold"}), agentbus.llm("m"):
        client.post("http://model.test/")
    assert [told_by(request.headers.get("baggage")) for request in made] == [{"tenant": "acme"}]


def test_lineage_is_never_baggage(requests_made: Sent) -> None:
    client, made = requests_made
    with capture(), agentbus.agent("a", conversation_id="talk") as run, run.llm("m"):
        client.post("http://model.test/")
    assert "baggage" not in made[0].headers


def test_on_a_tracer_that_is_not_the_sdks_it_is_the_same() -> None:
    with agentbus.connect(tracer_provider=ForeignProvider(), settings=agentbus.Settings(baggage=ALLOWED)):
        with resume({**FOREIGN, "baggage": "tenant=acme,session=secret"}), agentbus.agent("a"):
            assert held() == {"tenant": "acme"}
            assert inject()["baggage"] == "tenant=acme"
            with agentbus.llm("m"):
                assert held() == {}
            assert held() == {"tenant": "acme"}
        with resume({"baggage": "tenant=acme"}):
            with agentbus.llm("m"):
                assert held() == {}
            assert held() == {"tenant": "acme"}
        assert held() == {}


# -- leaving -----------------------------------------------------------------------------------------------------------


def test_what_is_left_open_inside_does_not_keep_it(seen: Captured) -> None:
    before = context.get_current()
    with resume({"baggage": "tenant=outer"}):
        with resume({**FOREIGN, "baggage": "tenant=inner,plan=gold"}):
            context.attach(context.set_value("leaked", 1))
        assert held() == {"tenant": "outer"}
        assert context.get_value("leaked") == 1
        assert "traceparent" not in inject()
    assert held() == {}
    assert "traceparent" not in inject()
    context.attach(before)


# -- whatever may come -------------------------------------------------------------------------------------------------


whatever = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
names = st.sampled_from(["tenant", "plan", "session", " tenant ", "%74enant", "TENANT", "t\u00e9nant", ""]) | st.text()
entries = st.builds("{}={}".format, names, st.text(max_size=50) | st.just("x" * 5000)) | st.text(max_size=30)
headers = st.lists(entries, max_size=12).map(",".join) | st.text() | st.just("tenant=1," * 2000)


@whatever
@example("tenant=%ff,plan=%,tenant;=1;tenant=2")
@example("tenant=" + "x" * 9000)
@given(headers)
def test_whatever_a_header_says_only_allowed_entries_come_in_and_leave(header: str) -> None:
    with capture(baggage=ALLOWED), resume({**FOREIGN, "baggage": header}), agentbus.agent("a"):
        found, sent = held(), inject()
        assert set(found) <= set(ALLOWED)
        assert told_by(sent.get("baggage")).keys() <= set(ALLOWED)
        assert extract(sent).traceparent == sent["traceparent"]
        assert extract(sent).invocation is not None
    assert held() == {}


values: st.SearchStrategy[Any] = st.text() | st.integers() | st.none() | st.binary() | st.builds(Broken)


@whatever
@example({"tenant": "a,session=secret"})
@example({"tenant": "a;session=secret\r\nx: y"})
@given(
    st.dictionaries(st.sampled_from(["tenant", "plan", "session", "tenant,session"]) | st.text(), values, max_size=6)
)
def test_whatever_a_program_holds_only_allowed_entries_leave(entries: dict[str, Any]) -> None:
    with capture(baggage=ALLOWED), Holding(entries), agentbus.agent("a"):
        sent = inject()
    header = sent.get("baggage", "")
    assert sorted({*sent, "baggage"}) == ["agentbus", "baggage", "traceparent"]
    assert {entry.partition("=")[0] for entry in header.split(",") if entry} <= set(ALLOWED)
    assert header.isascii()
    assert header.isprintable()
    for name in ALLOWED:
        if isinstance(entries.get(name), str) and quote_plus(entries[name], errors="ignore") == quote_plus(
            entries[name], errors="replace"
        ):
            assert told_by(header).get(name) == entries[name].strip()
