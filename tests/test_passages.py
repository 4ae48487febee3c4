"""What runs have said is found again in the texts of errors, however it is quoted, and is not kept for long."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from otel_agentbus.telemetry.passages import Passages, pieces_of
from otel_agentbus.telemetry.quotes import without
from tests import hostile

PROMPT = "my salary is 91234 euros, and my address is 12 Rue de l'Université; \"don't\" tell\nanybody about Zoë"


def scrubbed(text: str, *content: object, root: str = "r") -> str:
    passages = Passages()
    for said in content:
        passages.remember(root, said)
    return without(text, passages.quotes(root, text))


def test_a_text_that_quotes_nothing_is_the_same_object() -> None:
    text = "connection refused"
    assert scrubbed(text, PROMPT) is text
    assert scrubbed(text) is text


@pytest.mark.parametrize(
    "quoted",
    [
        PROMPT,
        repr(PROMPT),
        json.dumps(PROMPT),
        json.dumps(PROMPT, ensure_ascii=False),
        repr(json.dumps({"prompt": PROMPT})),
        json.dumps({"messages": [{"content": PROMPT}]}),
        PROMPT[10:60],
        PROMPT[:25] + "..." + PROMPT[-25:],
        repr(PROMPT[40:]),
        f"  {PROMPT}\n",
    ],
    ids=map(str, range(10)),
)
def test_a_quote_is_found_whole_escaped_and_in_parts(quoted: str) -> None:
    left = scrubbed(f"could not parse: {quoted} (in planner)", [{"role": "user", "content": PROMPT}])
    assert left.startswith("could not parse: ")
    assert left.endswith("(in planner)")
    assert "[content]" in left
    for word in ("salary", "91234", "address", "Université", "anybody", "Zo"):
        assert word not in left


def test_a_short_string_of_a_content_is_found_whole() -> None:
    assert scrubbed("no user 'John Doe' here", {"name": "John Doe"}) == "no user '[content]' here"


def test_numbers_and_addresses_are_found_in_the_middle_of_a_content() -> None:
    said = "Please write to jane.doe@example.com, her SSN is 078-05-1120 and her account 123456789."
    assert scrubbed("bad mail jane.doe@example.com", said) == "bad mail [content]"
    assert scrubbed("bad ssn: 078-05-1120!", said) == "bad ssn: [content]"
    assert scrubbed("bad account 123456789", {"account": 123456789}) == "bad account [content]"
    assert scrubbed("line 87654321 of unrelated", said) == "line 87654321 of unrelated"


def test_what_stands_between_two_quotes_goes_with_them() -> None:
    content = {"a": "the first sentence", "b": "the second sentence"}
    assert scrubbed("bad: the first sentence, 77; the second sentence.", content) == "bad: [content]."


def test_json_in_a_content_is_searched_by_its_values() -> None:
    assert scrubbed("no city 'Lissabon'", {"arguments": '{"city": "Lissabon"}'}) == "no city '[content]'"


def test_the_words_of_message_schemas_and_the_names_of_arguments_tell_nothing() -> None:
    content = [{"role": "assistant", "tool_calls": [{"type": "function", "arguments": {"temperature_unit": "C"}}]}]
    text = "an assistant message needs a function with temperature_unit"
    assert scrubbed(text, content) is text


def test_a_validation_error_of_pydantic_loses_what_it_shows_of_its_input() -> None:
    class Wanted(BaseModel):
        amount: int

    content = {"amount": "a secret sentence of the customer that is long enough to be shortened in the middle of it"}
    with pytest.raises(ValidationError) as caught:
        Wanted.model_validate(content)
    left = scrubbed(str(caught.value), content)
    assert "secret" not in left
    assert "middle" not in left
    assert "Input should be a valid integer" in left


def test_runs_know_their_own_content_only_and_an_error_of_no_run_that_of_all() -> None:
    passages = Passages()
    passages.remember("a", "the content of run a")
    passages.remember("b", "the content of run b")
    text = "the content of run b"
    assert without(text, passages.quotes("b", text)) == "[content]"
    assert without(text, passages.quotes("c", text)) == text
    assert without(text, passages.quotes(None, text)) == "[content]"


def test_a_run_that_is_over_is_remembered_for_a_while() -> None:
    passages = Passages()
    passages.remember("r0", "the content of the first run")
    passages.end("r0")
    text = "late: the content of the first run"
    assert without(text, passages.quotes("r0", text)) == "late: [content]"
    for number in range(1, 100):
        passages.remember(f"r{number}", "other content")
        passages.end(f"r{number}")
    assert without(text, passages.quotes("r0", text)) == text
    assert len(passages) == 32
    assert passages.forgotten == 0


def test_memory_is_bounded_in_runs_pieces_and_characters_and_what_is_given_up_is_counted() -> None:
    passages = Passages(runs=3, pieces=4, chars=100, total=250)
    for run in range(5):
        for piece in range(6):
            passages.remember(f"r{run}", f"piece {piece} of run {run}")
    assert len(passages) == 3
    assert passages.forgotten == 5 * 2 + 2 * 4
    passages.remember("long", "x" * 300)
    assert len(passages) == 1
    assert passages.forgotten == 5 * 2 + 5 * 4
    text = "x" * 300
    passages.clear()
    assert passages.quotes("long", text) == []


def test_what_is_said_again_is_kept_once() -> None:
    passages = Passages(pieces=10)
    for _ in range(100):
        passages.remember("r", [{"content": "the same history"}, {"content": "in every request"}])
    assert passages.forgotten == 0


def test_no_object_of_the_application_is_kept_or_asked_for_its_text() -> None:
    class Loud:
        def __repr__(self) -> str:
            raise AssertionError("nobody may ask")

    assert list(pieces_of([Loud(), hostile.Record(name="a name of a record"), hostile.Broken()])) == [
        ("a name of a record", "[content]")
    ]


def test_a_secret_under_its_name_is_found_although_it_is_short() -> None:
    assert scrubbed("login of bob failed: s3cr3", {"password": "s3cr3"}) == "login of bob failed: [REDACTED]"


@pytest.mark.parametrize("index", range(len(hostile.oddities())))
def test_every_oddity_is_remembered_without_raising(index: int) -> None:
    Passages().remember("r", hostile.oddities()[index])


def test_a_text_and_a_content_that_repeat_themselves_are_searched_once() -> None:
    assert scrubbed("ab" * 4000, "ab" * 100_000 + "c", "ba" * 100_000 + "d") == "[content]"


def test_a_text_that_defeats_the_search_is_withheld_whole() -> None:
    text = "".join(f"abcdefghij{number:04}" for number in range(500))
    content = [f"abcdefghij{letter * 10}" * 13_000 for letter in "QRSTU"]
    assert scrubbed(text, content) == "[content]"


@given(
    st.text(st.characters(codec="utf-8"), min_size=30, max_size=400).filter(lambda text: len(set(text)) > 12),
    st.data(),
)
def test_any_part_of_twenty_characters_is_found_in_any_form(content: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(content) - 20))
    end = data.draw(st.integers(start + 20, len(content)))
    part = content[start:end]
    written = data.draw(st.sampled_from([part, json.dumps(part), json.dumps(part, ensure_ascii=False), repr(part)]))
    passages = Passages()
    passages.remember("r", {"messages": [{"content": content}]})
    text = f"<<{written}>>"
    covered = bytearray(len(text))
    for first, last, _ in passages.quotes("r", text):
        covered[first:last] = b"\1" * (last - first)
    if part.strip() and not is_repetition(part):
        assert len(text) - sum(covered) <= 4 + 2 + 2 * (len(part) - len(part.strip())) * 6


def is_repetition(part: str) -> bool:
    """A run of one character in ten of a row is no quote: it may end a quote early."""
    return any(part[at : at + 10] == part[at] * 10 for at in range(len(part) - 9))


def test_many_threads_remember_and_forget_at_once() -> None:
    passages = Passages(runs=8, pieces=16, chars=2000, total=8000)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(200):
                root = f"r{(number + turn) % 12}"
                passages.remember(root, {"text": f"what thread {number} said in turn {turn}"})
                passages.quotes(root, f"what thread {number} said in turn {turn}")
                passages.end(root)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(passages) <= 8


def test_containers_are_read_only_as_far_as_they_may_matter() -> None:
    found: list[Any] = list(pieces_of([f"piece number {number}" for number in range(1_000_000)]))
    assert len(found) < 1100
    assert found[0] == ("piece number 999999", "[content]")
