"""Budgets as they are given: as arguments, or by a file of `[[budget]]` tables in TOML, with the same keys."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from .errors import ConfigurationError
from .spending import Budget, problem_of
from .values import quoted

_AS_ARGUMENT = 'give a list of Budget objects, such as [Budget("daily", usd=20, window="1d")]'
_KEYS = tuple(field.name for field in fields(Budget))


def checked_budgets(budgets: object) -> tuple[Budget, ...]:
    """The budgets that were given as an argument: any number of them, or one alone.

    Raises:
        ConfigurationError: something there is no budget, or two have one name.

    """
    if isinstance(budgets, Budget):
        return (budgets,)
    if isinstance(budgets, (str, bytes, Mapping)) or not isinstance(budgets, Iterable):
        raise ConfigurationError(f"budgets is {quoted('budgets', budgets)}: {_AS_ARGUMENT}.")
    given = tuple(budgets)
    for budget in given:
        if not isinstance(budget, Budget):
            raise ConfigurationError(f"One of budgets is {quoted('budgets', budget)}: {_AS_ARGUMENT}.")
    names = [budget.name for budget in given]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigurationError(f"Two budgets have the name {twice!r}: give each a name of its own.")
    return given


def load_budgets(path: str | Path) -> tuple[Budget, ...]:
    """The budgets that a file declares.

        [[budget]]
        name = "daily"
        usd = 20
        window = "1d"
        by = "agent"

    Raises:
        ConfigurationError: the file cannot be read, or something in it is not what it may be.

    """
    file = f"The budget file {path}"
    try:
        said = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read ({error.strerror}): give the path of a TOML file.") from None
    except ValueError as error:  # of TOML, or of UTF-8
        raise ConfigurationError(f"{file} is no TOML ({error}): correct it there.") from None
    _refuse_unknown(file, said, ("budget",))
    entries = said.get("budget", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigurationError(f"{file}: budget is {quoted('budget', entries)}: write [[budget]] above each budget.")
    found: dict[str, Budget] = {}
    for number, entry in enumerate(entries, 1):
        budget = _budget(f"{file}, budget {number}", entry)
        if budget.name in found:
            raise ConfigurationError(
                f"{file}, budget {number}: name is {budget.name!r}, as of one above: give it a name of its own."
            )
        found[budget.name] = budget
    return tuple(found.values())


def _budget(place: str, entry: dict[str, Any]) -> Budget:
    if isinstance(entry.get("name"), str):
        place = f"{place} ({quoted('name', entry['name'])})"
    _refuse_unknown(place, entry, _KEYS)
    if "name" not in entry:
        raise ConfigurationError(f"{place}: name is missing: give it a name, a text that is not empty.")
    problem = problem_of({"thresholds": (), "on_exceeded": "tell", **entry})
    if problem is not None:
        raise ConfigurationError(f"{place}: {problem}.")
    return Budget(**entry)


def _refuse_unknown(place: str, table: Iterable[str], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            remedy = f"did you mean {close[0]}?" if close else f"the keys are {', '.join(known)}."
            raise ConfigurationError(f"{place}: {key} is no key: {remedy}")
