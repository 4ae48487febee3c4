"""The page about job queues, by its code blocks."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "queues.md"


def blocks(section: str, language: str) -> list[str]:
    """The code blocks of that language under a heading."""
    text = PAGE.read_text("utf-8")
    found = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found is not None, f"there is no section {section!r}"
    return re.findall(rf"```{language}\n(.*?)```", found[1], re.DOTALL)


def sections() -> dict[str, int]:
    """How many blocks of Python each section has."""
    headings = re.findall(r"^## (.*)$", PAGE.read_text("utf-8"), re.MULTILINE)
    return {heading: count for heading in headings if (count := len(blocks(heading, "python")))}


__all__ = ["PAGE", "blocks", "sections"]
