"""The house as the design lays it out: what the files may be named, how long they are, and what they may reach for."""

from __future__ import annotations

import ast
import inspect
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import otel_agentbus

from .sources import parsed

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "otel_agentbus"
MODULES = sorted(PACKAGE.rglob("*.py"))
BANNED = {"utils", "util", "helpers", "helper", "common", "base", "core", "manager", "managers", "misc"}
#: Who speaks OpenTelemetry, besides `telemetry/`, `recovery/`, `relay/`, the adapters and the command line's doctor.
SPEAKERS = {"bridges.py", "bus.py", "feeding/feed.py", "instrumentor.py", "spool_exporter.py", "testing.py"}

MAKERS = ("telemetry/", "recovery/", "relay/", "adapters/", "cli/")


def name_of(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


def imported_by(module: Path) -> Iterator[str]:
    """The absolute names of the modules that a module imports."""
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_modules_are_short_and_say_what_they_are_for(module: Path) -> None:
    text = module.read_text("utf-8")
    assert len(text.splitlines()) <= 400
    if text:
        assert ast.get_docstring(parsed(module))


def test_no_module_has_a_name_that_says_nothing() -> None:
    parts = {part for module in MODULES for part in module.relative_to(PACKAGE).with_suffix("").parts}
    assert parts & BANNED == set()


@pytest.mark.parametrize("name", otel_agentbus.__all__)
def test_every_public_name_is_there_and_is_explained(name: str) -> None:
    found = getattr(otel_agentbus, name)
    if not isinstance(found, str):
        assert inspect.getdoc(found)


def test_the_public_names_are_sorted_and_each_is_there_once() -> None:
    assert list(otel_agentbus.__all__) == sorted(set(otel_agentbus.__all__))


PUBLIC_CLASSES = [getattr(otel_agentbus, name) for name in otel_agentbus.__all__]


@pytest.mark.parametrize(
    "cls", [found for found in PUBLIC_CLASSES if inspect.isclass(found)], ids=lambda cls: cls.__name__
)
def test_every_public_method_is_explained(cls: type) -> None:
    own = {name: member for name, member in vars(cls).items() if not name.startswith("_")}
    methods = {
        name: member for name, member in own.items() if inspect.isfunction(member) or isinstance(member, property)
    }
    assert [name for name, member in methods.items() if not inspect.getdoc(member)] == []


def test_one_module_reads_the_environment_and_only_for_settings_and_command_line() -> None:
    readers = set()
    for module in MODULES:
        for node in ast.walk(parsed(module)):
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv"):
                readers.add(name_of(module))
            if isinstance(node, ast.ImportFrom) and node.module == "os":
                readers |= {name_of(module) for alias in node.names if alias.name in ("environ", "getenv")}
    assert readers <= {"environment.py", "cli/startup/sitecustomize.py"}
    askers = {name_of(module) for module in MODULES if "environment" in _own_imports(module)}
    assert askers <= {"settings.py", "starting.py", "cli/run.py"}


def _own_imports(module: Path) -> set[str]:
    """The names of our own modules that it imports from the package itself."""
    found = [node for node in ast.walk(parsed(module)) if isinstance(node, ast.ImportFrom)]
    return {alias.name for node in found if node.module in (None, "otel_agentbus") for alias in node.names} | {
        (node.module or "").rpartition(".")[2] for node in found
    }


def test_only_those_speak_opentelemetry_that_may() -> None:
    speakers = {
        name_of(module)
        for module in MODULES
        if any(name.split(".")[0] == "opentelemetry" for name in imported_by(module))
    }
    apart = {name for name in speakers if not name.startswith(MAKERS)}
    assert apart <= SPEAKERS


def test_exporters_are_imported_by_nobody_at_the_top() -> None:
    for module in MODULES:
        for node in parsed(module).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = (
                    [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                )
                heavy = [name for name in names if name.startswith(("opentelemetry.exporter", "grpc", "requests"))]
                assert heavy == [], name_of(module)


def test_no_module_imports_the_tests_or_an_undeclared_distribution() -> None:
    pydantic = {"pydantic", "pydantic_core", "pydantic_settings"}
    declared = {"opentelemetry", *pydantic, "platformdirs", "typing_extensions", "wrapt", "typer", "rich"}
    # frameworks and job queues, the extras with the prices and for the broker, the exporters' transports
    frameworks = {"pydantic_ai", "celery", "dramatiq", "rq", "arq", "langchain_core", "langgraph", "agents", "crewai"}
    frameworks |= {"llama_index", "llama_index_instrumentation", "workflows", "strands", "agent_framework"}
    frameworks |= {"claude_agent_sdk", "mcp"}
    optional = {*frameworks, "genai_prices", "redis", "requests", "grpc", "google", "otel_agentbus"}
    own = declared | optional | set(sys.stdlib_module_names)
    foreign = {
        (name_of(module), name) for module in MODULES for name in imported_by(module) if name.split(".")[0] not in own
    }
    assert foreign == set()


def test_the_layers_hold() -> None:
    lint = shutil.which("lint-imports", path=str(Path(sys.executable).parent)) or shutil.which("lint-imports")
    if lint is None:
        pytest.skip("import-linter is not installed")
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
