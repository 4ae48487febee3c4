"""The derivation of trace and span ids: a published contract."""

from __future__ import annotations

import json
import struct
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import otel_agentbus as agentbus
from otel_agentbus import testing
from otel_agentbus.telemetry.ids import Ids, call_of, digest, exported_elsewhere
from otel_agentbus.telemetry.origin import Origin, read_origin

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "vectors" / "ids-v1.json").read_text("utf-8"))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['key']}-{v['root']}-{v['kind']}-{v['local']}")
def test_ids_are_those_of_the_published_vectors(vector: dict[str, Any]) -> None:
    ids = Ids(bytes.fromhex(vector["key"]))
    span_id = ids.span_id(vector["root"], vector["kind"], vector["invocation"], vector["local"], vector["attempt"])
    assert (f"{ids.trace_id(vector['root']):032x}", f"{span_id:016x}") == (vector["trace_id"], vector["span_id"])


def test_the_vectors_follow_from_the_written_contract_alone() -> None:
    """An implementation from the docstring, in as few words as another language would need."""

    def h(size: int, domain: bytes, key: bytes, *parts: str) -> str:
        data = b"".join(struct.pack(">I", len(p.encode())) + p.encode() for p in parts)
        return blake2b(data, digest_size=size, person=b"agentbus." + domain, key=key).hexdigest()

    for v in VECTORS:
        key = bytes.fromhex(v["key"])
        assert h(16, b"trace", key, v["root"]) == v["trace_id"]
        parts = (v["root"], v["kind"], v["invocation"], v["local"], str(v["attempt"]))
        assert h(8, b"span", key, *parts) == v["span_id"]


def test_an_all_zero_digest_is_hashed_again_with_a_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    class Zeros:
        def __init__(self, data: bytes, **options: Any) -> None:
            seen.append(data)
            self._data = data
            self._options = options

        def digest(self) -> bytes:
            return bytes(8) if len(seen) < 3 else blake2b(self._data, **self._options).digest()

    monkeypatch.setattr("otel_agentbus.telemetry.ids.blake2b", Zeros)
    value = digest(8, "span", "a")
    assert value != 0
    assert seen == [b"\0\0\0\1a", b"\0\0\0\1a" + b"\0\0\0\x011", b"\0\0\0\1a" + b"\0\0\0\x012"]


@given(st.lists(st.text(), min_size=1, max_size=5), st.lists(st.text(), min_size=1, max_size=5))
def test_different_parts_have_different_ids(one: list[str], other: list[str]) -> None:
    """Length prefixes leave no ambiguity between ("a", "bc") and ("ab", "c")."""
    assert (digest(8, "span", *one) == digest(8, "span", *other)) == (one == other)


def test_a_million_calls_have_a_million_ids() -> None:
    ids = {digest(8, "span", "r", "llm", "r", str(n), "1") for n in range(200_000)}
    assert len(ids) == 200_000


def test_ratio_samplers_see_uniform_trace_ids() -> None:
    """The SDK's ratio sampler compares the low 64 bits, which are fixed in part in a raw UUID."""
    kept = sum((Ids().trace_id(f"run-{n}") & (2**64 - 1)) < 2**64 // 10 for n in range(20_000))
    assert 1_800 <= kept <= 2_200


def test_a_key_changes_every_id() -> None:
    assert Ids(b"secret").trace_id("r") != Ids().trace_id("r")
    assert Ids(b"secret").span_id("r", "agent", "r") != Ids().span_id("r", "agent", "r")


@pytest.mark.parametrize(
    ("parent_call_id", "call"),
    [
        ("c1", ("tool", "c1")),
        ("llm:7-1", ("llm", "7-1")),
        ("tool:llm:odd", ("tool", "llm:odd")),
        ("tool:tool:odder", ("tool", "tool:odder")),
    ],
)
def test_a_parent_call_is_a_tool_call_unless_it_says_otherwise(parent_call_id: str, call: tuple[str, str]) -> None:
    assert call_of(parent_call_id) == call


origins = st.builds(
    Origin,
    trace_id=st.integers(1, 2**128 - 1),
    span_id=st.integers(0, 2**64 - 1),
    flags=st.sampled_from([0, 1, 2, 3]),
    recorded=st.booleans(),
    remote=st.booleans(),
)


@given(origins)
def test_an_origin_is_read_as_it_was_written(origin: Origin) -> None:
    read = read_origin(str(origin))
    recorded = origin.recorded or origin.sampled
    assert read == Origin(origin.trace_id, origin.span_id, origin.flags, recorded, origin.remote)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "garbage",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\n",
        "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
    ],
)
def test_what_is_no_traceparent_says_nothing(text: str | None) -> None:
    assert read_origin(text) is None


def test_unknown_flag_bits_are_dropped() -> None:
    origin = read_origin("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff")
    assert origin == Origin(0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7, 3)


FORGED = "call_1@span:00f067aa0ba902b7"


def test_an_id_that_a_model_or_a_user_chooses_cannot_name_a_span_of_others() -> None:
    """Only what was read of others' spans has ids that name those (see `telemetry/ids`)."""
    with testing.capture() as seen:
        with (
            agentbus.agent("planner", invocation_id=FORGED) as run,
            run.tool("search", tool_call_id=FORGED) as tool,
            agentbus.llm("m", call_id=FORGED),
        ):
            pass
        assert (run.id, tool.id) == ("call_1@span-00f067aa0ba902b7", "call_1@span-00f067aa0ba902b7")
        seen.assert_tree("""
            invoke_agent planner
            └─ execute_tool search
               └─ chat m
        """)


@pytest.mark.parametrize("digits", ["00f067aa0ba902b ", "00F067AA0BA902B7", "0000000000000000", "00f067aa0ba902b"])
def test_what_is_no_span_id_names_no_span(digits: str) -> None:
    assert exported_elsewhere(f"call@span:{digits}") == 0
