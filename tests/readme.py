"""The parts of the README that are made, not written: `python -m tests.readme` renews them, a test compares them."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

from otel_agentbus.adapters import ADAPTERS
from otel_agentbus.settings import Settings, variable_of
from otel_agentbus.values import SIGNALS, shown

from .sources import parsed

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
ADAPTERS_PAGE = ROOT / "docs" / "adapters" / "index.md"
QUEUES = ("celery", "dramatiq", "rq", "arq")


def settings_table() -> str:
    """All settings as a table in Markdown."""
    rows = ["| Variable | Argument | Default | Meaning |", "|---|---|---|---|"]
    for name, info in Settings.model_fields.items():
        if name.startswith(("traces_", "metrics_")) and name.partition("_")[2] in Settings.model_fields:
            continue  # said once, with the setting for both signals
        per_signal = [f"{signal}_{name}" for signal in SIGNALS if f"{signal}_{name}" in Settings.model_fields]
        own = ", ".join(f"`{variable_of(field_name)}`" for field_name in per_signal)
        meaning = f"{info.description} For one signal: {own}." if own else info.description
        rows.append(f"| `{variable_of(name)}` | `{name}` | {shown(name, info.default)} | {meaning} |")
    return "\n".join(rows)


def adapters_table(pages: str) -> str:
    """The frameworks in the versions that are supported; `pages` is the way to their pages."""
    rows = ["| Framework | its name here | versions |", "|---|---|---|"]
    for adapter in ADAPTERS.values():
        page = f"{adapter.name.replace('-', '_')}.md"
        if (ROOT / "docs" / "adapters" / page).exists():
            title = (ROOT / "docs" / "adapters" / page).read_text("utf-8").splitlines()[0].removeprefix("# ")
            name = title.partition(":")[0]
            rows.append(f"| [{name}]({pages}{page}) | `{adapter.name}` | `{adapter.distribution}{adapter.range}` |")
    queues = ", ".join(f"`{name}`" for name in ADAPTERS if name in QUEUES)
    above = pages.replace("adapters/", "") or "../"
    return "\n".join([*rows, f"| [Job queues]({above}queues.md) | {queues} | see there |"])


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


def made(text: str, pages: str = "docs/adapters/") -> str:
    """The README, or the page of the adapters, with its made parts renewed."""
    parts = {"adapters": adapters_table(pages), "settings": settings_table().strip(), "house": house()}
    for part, content in parts.items():
        text = re.sub(
            rf"(<!-- {part} -->\n).*?(<!-- /{part} -->)",
            lambda match, content=content: f"{match[1]}{content}\n{match[2]}",  # type: ignore[misc]  # bound above
            text,
            flags=re.DOTALL,
        )
    return text


if __name__ == "__main__":
    README.write_text(made(README.read_text("utf-8")), "utf-8")
    ADAPTERS_PAGE.write_text(made(ADAPTERS_PAGE.read_text("utf-8"), ""), "utf-8")
