"""How the commands count things and say what went wrong."""

from __future__ import annotations

import typer


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number and what it counts: "1 run", "1,200 runs"."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def fail(sentence: str, code: int) -> typer.Exit:
    """Say it on standard error; the exit to raise."""
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print(sentence, style="red", markup=False)
    return typer.Exit(code)
