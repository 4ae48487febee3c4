"""Carriers come from outside: nothing in one raises, and what cannot be read is as if it were not there."""

from __future__ import annotations

import logging
from collections import UserDict
from collections.abc import Iterator, Mapping
from email.message import Message
from types import MappingProxyType
from typing import Any, NoReturn
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import otel_agentbus as agentbus
from otel_agentbus import Invocation, current, extract, inject, resume
from otel_agentbus.carriers import Carried
from otel_agentbus.testing import capture

from .hostile import Broken, BrokenDict, BrokenMapping

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"
ENTRY = "1;k;r;c;2;talk;far;top/far"
RUN = Invocation("k", None, "r", "far", ("top", "far"), 2, "talk", remote=True)


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "-",
        "garbage",
        TRACE,
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0g",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01-x",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN.upper()}-01",
        f"00-{TRACE}-{SPAN}-0A",
        f"0-{TRACE}-{SPAN}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01",
        "00-" + "１" * 32 + f"-{SPAN}-01",
        "0" * 100_000,
    ],
)
def test_an_invalid_traceparent_is_none(traceparent: str) -> None:
    assert extract({"traceparent": traceparent, "tracestate": "a=1"}) == Carried()
    assert extract({"traceparent": traceparent, "agentbus": ENTRY}) == Carried(RUN, "c")


@pytest.mark.parametrize(
    ("traceparent", "read"),
    [
        (PARENT, PARENT),
        (f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-00"),
        (f"00-{TRACE}-{SPAN}-02", f"00-{TRACE}-{SPAN}-02"),
        (f"00-{TRACE}-{SPAN}-ff", f"00-{TRACE}-{SPAN}-03"),
        (f"00-{TRACE}-{SPAN}-fc", f"00-{TRACE}-{SPAN}-00"),
        (f"01-{TRACE}-{SPAN}-01", PARENT),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", PARENT),
        (f"  {PARENT}\t", PARENT),
    ],
)
def test_a_valid_traceparent_is_read_as_version_00_with_the_flags_that_are_known(traceparent: str, read: str) -> None:
    assert extract({"traceparent": traceparent}).traceparent == read


def test_unknown_flags_reach_no_span_and_known_ones_are_kept() -> None:
    for flags in range(256):
        carrier = {"traceparent": f"00-{TRACE}-{SPAN}-{flags:02x}"}
        assert extract(carrier).traceparent == f"00-{TRACE}-{SPAN}-{flags & 3:02x}"
    with capture() as seen:
        for flags in (0x00, 0x01, 0x02, 0x03, 0xFF):
            with resume({"traceparent": f"00-{TRACE}-{SPAN}-{flags:02x}"}), agentbus.agent("a"):
                assert inject()["traceparent"][-2:] == f"{flags & 3:02x}"
    assert [span.context and span.context.trace_flags for span in seen.spans] == [1, 3, 3]


@pytest.mark.parametrize(
    ("tracestate", "read"),
    [
        ("a=1", "a=1"),
        ("a=1,b@c=2", "a=1,b@c=2"),
        (" a=1 ,, b=2,", "a=1,b=2"),
        (["a=1", "b=2"], "a=1,b=2"),
        (b"a=1", "a=1"),
        ("", None),
        (",", None),
        ("a", None),
        ("A=1", None),
        ("a=", None),
        ("a=1=2", None),
        ("a=\u00e9", None),
        ("a=1,a=2", None),
        ("a=1,garbage", None),
        (",".join(f"k{n}=1" for n in range(32)), ",".join(f"k{n}=1" for n in range(32))),
        (",".join(f"k{n}=1" for n in range(33)), None),
        ("a=" + "x" * 256, "a=" + "x" * 256),
        ("a=" + "x" * 257, None),
        ("a=" + "x" * 250 + ",b=" + "x" * 256 + ",c=" + "x" * 10, None),
    ],
)
def test_a_tracestate_is_read_whole_or_not_at_all(
    tracestate: Any, read: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    carrier = {"traceparent": PARENT, "tracestate": tracestate}
    assert extract(carrier) == Carried(None, None, PARENT, read)
    assert extract({"tracestate": tracestate}) == Carried()
    with caplog.at_level(logging.INFO), capture(), resume(carrier), agentbus.agent("a"), agentbus.llm("m"):
        assert inject().get("tracestate") == read
    assert [record for record in caplog.records if "tracestate" in record.name or "trace" in record.name] == []


@pytest.mark.parametrize(
    "entry",
    [
        "",
        ";",
        "1",
        ENTRY + ";more",
        ENTRY.removeprefix("1;"),
        "2" + ENTRY[1:],
        "01" + ENTRY[1:],
        " " + ENTRY.replace("1;", "1 ;", 1),
        "1;;r;c;1;talk;far;far",
        "1;k;;c;1;talk;far;far",
        "1;k;r;c;;talk;far;far",
        "1;k;r;c;0;talk;far;far",
        "1;k;r;c;-1;talk;far;far",
        "1;k;r;c;1.5;talk;far;far",
        "1;k;r;c;²;talk;far;far",
        "1;k;r;c;1000000;talk;far;far",
        f"1;k;r;c;{'9' * 900};talk;far;far",
        "1;%FF;r;c;1;talk;far;far",
        "1;k;r;c;1;talk;far;far/%C3",
        "1;" + "k" * 1024 + ";r;c;1;talk;far;far",
        "x" * 1_000_000,
    ],
)
def test_an_entry_that_is_not_ours_is_no_run(entry: str) -> None:
    assert extract({"agentbus": entry}) == Carried()
    assert extract({"agentbus": entry, "traceparent": PARENT}) == Carried(traceparent=PARENT)


@pytest.mark.parametrize(
    "carrier",
    [
        {"AgentBus": ENTRY, "TraceParent": PARENT},
        {"AGENTBUS": ENTRY, "TRACEPARENT": PARENT},
        {"agentbus": ENTRY.encode(), "traceparent": PARENT.encode()},
        {b"agentbus": ENTRY.encode(), b"traceparent": PARENT.encode()},
        {"agentbus": [ENTRY], "traceparent": [PARENT, "other"]},
        {"agentbus": (ENTRY.encode(),), "traceparent": [None, PARENT]},
        [("agentbus", ENTRY), ("traceparent", PARENT)],
        [(b"agentbus", ENTRY.encode()), (b"traceparent", PARENT.encode())],
        (("Agentbus", ENTRY), ("Traceparent", PARENT)),
        MappingProxyType({"agentbus": ENTRY, "traceparent": PARENT}),
        UserDict({"agentbus": ENTRY, "traceparent": PARENT}),
        {"agentbus": ENTRY, "traceparent": PARENT, 5: "x", None: None, ("a",): "y"},
    ],
    ids=lambda carrier: type(carrier).__name__,
)
def test_headers_are_read_in_any_case_as_bytes_and_in_lists(carrier: Any) -> None:
    assert extract(carrier) == Carried(RUN, "c", PARENT)


def test_a_mail_or_http_message_is_a_carrier() -> None:
    message = Message()
    message["Agentbus"] = ENTRY
    message["Traceparent"] = PARENT
    assert extract(message) == Carried(RUN, "c", PARENT)  # type: ignore[arg-type]
    again = Message()
    RUN.run(lambda: inject(again))  # type: ignore[arg-type]
    assert again["agentbus"] == "1;k;r;;2;talk;far;top/far"


class Raising(Mapping[str, str]):
    """A carrier whose every method fails."""

    def __getitem__(self, key: str) -> NoReturn:
        raise RuntimeError("no item")

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("no iter")

    def __len__(self) -> NoReturn:
        raise RuntimeError("no len")


@pytest.mark.parametrize(
    "carrier",
    [
        None,
        0,
        5,
        "traceparent",
        b"agentbus",
        object(),
        Broken(),
        Raising(),
        BrokenDict(),
        BrokenMapping(),
        [1],
        [()],
        {1},
    ],
    ids=lambda carrier: type(carrier).__name__,
)
def test_what_is_no_carrier_carries_nothing(carrier: Any) -> None:
    assert extract(carrier) == Carried()
    with agentbus.agent("local"), resume(carrier) as resumed:
        assert resumed is None
        assert current() is None
    inject(carrier)


whatever = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=6,
)
nearly_traceparents = st.from_regex(
    r"\A[0-9a-fA-F]{1,2}-[0-9a-f]{30,33}-[0-9a-f]{15,17}-[0-9a-f]{1,2}(-.*)?\Z"
) | st.builds(
    "{}-{}-{}-{}".format,
    st.sampled_from(["00", "01", "ff"]),
    st.just(TRACE),
    st.just(SPAN),
    st.from_regex(r"\A[0-9a-f]{2}\Z"),
)
nearly_entries = st.lists(
    st.text(max_size=8) | st.sampled_from(["1", "k", "r", "%41", "%ff", "a/b"]), min_size=6, max_size=9
).map(";".join)
values = anything | nearly_traceparents | nearly_entries | nearly_entries.map(lambda text: "1;" + text)
carriers = st.dictionaries(
    st.sampled_from(["traceparent", "tracestate", "agentbus", "AgentBus", "Traceparent"]) | st.text() | st.binary(),
    values,
)


@whatever
@given(carriers | anything, st.sampled_from(["parent", "link"]), st.booleans())
def test_no_garbage_ever_raises_and_a_block_inside_always_has_a_lineage(
    carrier: Any, policy: Any, trusted: bool
) -> None:
    carried = extract(carrier)
    with capture(validate_events=False) as seen:
        with resume(carrier, policy=policy, trusted=trusted) as resumed, agentbus.agent("a") as run, run.llm("m"):
            if carried.invocation is None or policy == "link" or not trusted:
                assert resumed is None
                assert run.invocation.is_root
                assert run.invocation.root_id == run.id
            else:
                assert resumed is not None
                assert (run.invocation.parent_id, run.invocation.root_id) == (resumed.id, resumed.root_id)
            onward = inject({})
        assert extract(onward).traceparent == onward["traceparent"]
    assert len(seen.spans) == (2 if int(onward["traceparent"][-2:], 16) & 1 else 0)
    assert len(seen.events) == 4
    assert current() is None


names = st.text(st.characters(), min_size=1, max_size=20)


@whatever
@example("\ud800;", "\udfff%", "a\udc00/", 1, "\ud83d", ["a/b", "%2F", "\ud800"])
@given(names, names, st.none() | names, st.integers(1, 99), st.none() | names, st.lists(names, min_size=1, max_size=4))
def test_whatever_a_run_is_called_it_comes_through_whole(
    run_id: str, root_id: str, call: str | None, attempt: int, conversation: str | None, path: list[str]
) -> None:
    run = Invocation.rehydrate(
        run_id, root_id, agent=path[-1], path=tuple(path), attempt=attempt, conversation_id=conversation
    )
    written: dict[str, str] = {}
    frame = run.push()
    frame.call = call
    inject(written)
    Invocation.pop(frame)
    entry = written.get("agentbus")
    if entry is None:
        told = [run_id, root_id, call or "", conversation or "", path[-1]]
        assert sum(len(quote(text, safe="", errors="surrogatepass")) for text in told) > 1000
        return
    assert len(entry) <= 1024
    assert entry.isascii()
    assert extract({"agentbus": entry}) in (
        Carried(run, call),
        Carried(
            Invocation.rehydrate(run_id, root_id, agent=path[-1], attempt=attempt, conversation_id=conversation), call
        ),
    )
