"""The parts of the README that are made, not written: `python -m tests.readme` renews them, a test compares them."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

from otel_agentbus.settings import table

from .sources import parsed

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def house() -> str:
    """Each module of the package by its layer, with the sentence that it begins with."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    layers = [name.strip() for layer in contracts[0]["layers"] for name in layer.split("|")]
    rows = []
    for name in layers:
        path = ROOT / "otel_agentbus" / name
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        sentence = (ast.get_docstring(parsed(source)) or "").split("\n\n")[0].replace("\n", " ")
        rows.append((f"{name}/" if path.is_dir() else f"{name}.py", sentence))
    width = max(len(name) for name, _ in rows)
    return "```text\n" + "\n".join(f"{name:{width}}  {sentence}" for name, sentence in rows) + "\n```"


def made(text: str) -> str:
    """The README with its made parts renewed."""
    for part, content in {"settings": table().strip(), "house": house()}.items():
        text = re.sub(
            rf"(<!-- {part} -->\n).*?(<!-- /{part} -->)",
            lambda match, content=content: f"{match[1]}{content}\n{match[2]}",  # type: ignore[misc]  # bound above
            text,
            flags=re.DOTALL,
        )
    return text


if __name__ == "__main__":
    README.write_text(made(README.read_text("utf-8")), "utf-8")
