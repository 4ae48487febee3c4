"""Budgets from a file, and one sentence for each way in which the file can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from otel_agentbus.budgets import Budget, load_budgets
from otel_agentbus.errors import ConfigurationError


def written(directory: Path, text: str | bytes) -> Path:
    path = directory / "budgets.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_file_declares_what_budgets_in_the_program_would(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        # what a run may cost
        [[budget]]
        name = "per-run"
        usd = 0.50

        [[budget]]
        name = "daily"
        usd = 20
        tokens = 5_000_000
        window = "1d"
        by = "agent"
        thresholds = [0.5, 0.9, 1]
        on_exceeded = "raise"

        [[budget]]
        name = "minute"
        tokens = 1000
        window = 60
        """,
    )
    assert load_budgets(path) == (
        Budget("per-run", usd=0.50),
        Budget(
            "daily",
            usd=20,
            tokens=5_000_000,
            window="1d",
            by="agent",
            thresholds=(0.5, 0.9, 1.0),
            on_exceeded="raise",
        ),
        Budget("minute", tokens=1000, window=60),
    )
    assert load_budgets(str(path)) == load_budgets(path)


def test_a_file_may_declare_nothing(tmp_path: Path) -> None:
    assert load_budgets(written(tmp_path, "# none yet\n")) == ()


WHOLE = "set it to a whole number of tokens above 0, such as 1000000, or leave it out."
EITHER = "set usd to a number of US dollars, or tokens to a whole number, or both."
SPLITS = "set it to agent, model, provider, channel or conversation."
ENTRY = '[[budget]]\nname = "a"\nusd = 1\n'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (ENTRY + 'windw = "1d"', ", budget 1 ('a'): windw is no key: did you mean window?"),
        (
            ENTRY + "colour = 1",
            ", budget 1 ('a'): colour is no key: the keys are name, usd, tokens, window, by, thresholds, on_exceeded.",
        ),
        (
            ENTRY + '[[budget]]\nname = "b"\nusd = "much"',
            ", budget 2 ('b'): usd is 'much': set it to a number of US dollars above 0, such as 0.5, or leave it out.",
        ),
        (
            '[[budget]]\nname = "b"\ntokens = 0.5',
            f", budget 1 ('b'): tokens is 0.5: {WHOLE}",
        ),
        (
            '[[budget]]\nname = "b"',
            f", budget 1 ('b'): it has no limit: {EITHER}",
        ),
        ("[[budget]]\nusd = 1", ", budget 1: name is missing: give it a name, a text that is not empty."),
        ("[[budget]]\nname = 7\nusd = 1", ", budget 1: name is 7: give it a name, a text that is not empty."),
        (ENTRY + ENTRY, ", budget 2: name is 'a', as of one above: give it a name of its own."),
        (
            ENTRY + "thresholds = 1",
            ", budget 1 ('a'): thresholds is 1: set it to shares of the limit above 0, such as 0.8 and 1.0.",
        ),
        (ENTRY + 'on_exceeded = "stop"', ", budget 1 ('a'): on_exceeded is 'stop': set it to tell or raise."),
        (
            ENTRY + "by = 1979-05-27",
            f", budget 1 ('a'): by is datetime.date(1979, 5, 27): {SPLITS}",
        ),
        ("[budgets]\nusd = 1", ": budgets is no key: did you mean budget?"),
        (
            '[budget]\nname = "a"\nusd = 1',
            ": budget is {'name': 'a', 'usd': 1}: write [[budget]] above each budget.",
        ),
        ("budget = [1]", ": budget is [1]: write [[budget]] above each budget."),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_with_the_entry_the_key_the_value_and_the_remedy(
    tmp_path: Path, text: str, sentence: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigurationError) as refused:
        load_budgets(path)
    assert str(refused.value) == f"The budget file {path}{sentence}"


@pytest.mark.parametrize("text", ["[[budget]\nname", b"name = '\xff'", 'a = "'])
def test_what_is_no_toml_is_said_with_the_place(tmp_path: Path, text: str | bytes) -> None:
    path = written(tmp_path, text)
    with pytest.raises(
        ConfigurationError, match=r"^The budget file .* is no TOML \(.*\): correct it there\.$"
    ) as refused:
        load_budgets(path)
    assert any(place in str(refused.value) for place in ("line 1", "position 8", "at end of document"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    with pytest.raises(ConfigurationError) as refused:
        load_budgets(path)
    assert str(refused.value) == (
        f"The budget file {path} cannot be read (No such file or directory): give the path of a TOML file."
    )
    with pytest.raises(ConfigurationError, match="Is a directory"):
        load_budgets(tmp_path)
