"""Which frameworks can be observed, and switching that on and off."""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from pydantic_ai import Agent
from pydantic_ai.models.instrumented import InstrumentationSettings

from otel_agentbus import adapters
from otel_agentbus.errors import UnsupportedFramework

#: Each adapter's distribution, of those that are installed where the unit tests run.
DISTRIBUTIONS = {
    "pydantic-ai": "pydantic-ai-slim",
    "otel": "opentelemetry-sdk",
    "celery": "celery",
    "dramatiq": "dramatiq",
    "rq": "rq",
    "arq": "arq",
}


def in_force() -> InstrumentationSettings | bool:
    return Agent._instrument_default


def test_what_is_available_has_its_installed_version() -> None:
    installed = {name: importlib.metadata.version(of) for name, of in DISTRIBUTIONS.items()}
    assert {name: version for name, version in adapters.available().items() if version} == installed
    assert set(adapters.available()) == set(adapters.ADAPTERS)
    assert adapters.auto() == tuple(DISTRIBUTIONS)


def test_an_unknown_framework_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedFramework) as refused:
        adapters.instrument("pydantic-ai", "no-such-thing")

    there_are = ", ".join(sorted(adapters.ADAPTERS))
    assert str(refused.value) == f"There is no adapter named 'no-such-thing'; there are: {there_are}."
    assert adapters.active() == {}


def test_a_framework_that_is_not_installed_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)

    assert adapters.available() == dict.fromkeys(adapters.ADAPTERS)
    assert adapters.auto() == ()
    with pytest.raises(UnsupportedFramework) as refused:
        adapters.instrument("pydantic-ai")
    assert str(refused.value) == (
        "pydantic-ai cannot be instrumented: it is not installed; install 'pydantic-ai-slim>=2.60,<3.0'."
    )


@pytest.mark.parametrize("version", ["2.59.9", "3.0.0", "1.99", "nightly"])
def test_a_version_outside_the_tested_ones_is_refused(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)

    assert "pydantic-ai" not in adapters.auto()
    with pytest.raises(UnsupportedFramework) as refused:
        adapters.instrument("pydantic-ai")
    assert str(refused.value) == (
        f"pydantic-ai {version} cannot be instrumented: the adapter supports >=2.60,<3.0; "
        "install 'pydantic-ai-slim>=2.60,<3.0'."
    )


@pytest.mark.parametrize("version", ["2.60.0", "2.68.0", "2.100.1", "2.70.0rc1"])
def test_every_tested_version_is_taken(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)

    assert "pydantic-ai" in adapters.auto()


@pytest.mark.parametrize("error", [ImportError("half installed"), RuntimeError("broken")])
def test_auto_leaves_out_what_is_installed_and_cannot_be_imported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    imported = importlib.import_module

    def fails(name: str, package: str | None = None) -> ModuleType:
        if name == "otel_agentbus.adapters.rq":
            raise error
        return imported(name, package)

    for module in ("pydantic_ai", "celery", "dramatiq", "rq", "arq"):  # the program uses them all
        imported(module)
    monkeypatch.setattr(importlib, "import_module", fails)
    with adapters.instrument("auto") as found:
        assert found.names == tuple(name for name in DISTRIBUTIONS if name != "rq")
    assert "rq is installed, but cannot be observed" in caplog.text
    with pytest.raises(type(error)):
        adapters.instrument("rq")
    assert adapters.active() == {}


def test_switching_on_twice_counts_and_the_last_off_is_off() -> None:
    before = in_force()

    first = adapters.instrument("pydantic-ai")
    settings = in_force()
    with adapters.instrument("pydantic_ai"):
        assert in_force() is settings
        first.off()
        first.off()
        assert in_force() is settings
        assert [(name, switch.chained) for name, switch in adapters.active().items()] == [("pydantic-ai", False)]

    assert in_force() is before
    assert adapters.active() == {}


def test_settings_that_somebody_else_made_since_are_left_alone() -> None:
    handle = adapters.instrument("pydantic-ai")
    theirs = InstrumentationSettings()
    Agent.instrument_all(theirs)

    handle.off()

    assert in_force() is theirs
    Agent.instrument_all(False)


def printed_by(program: str) -> str:
    """What a process of its own prints that runs this program."""
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip()


def test_auto_observes_what_the_program_imports_and_imports_nothing_itself() -> None:
    program = """
import sys
from otel_agentbus import adapters
with adapters.instrument("auto") as found, adapters.instrument("auto") as again:
    print(found.names, {"pydantic_ai", "celery", "rq", "arq", "dramatiq"} & set(sys.modules))
    import rq
    print(found.names, again.names, sorted(adapters.active()))
    import pydantic_ai
    print(found.names, again.names, sorted(adapters.active()))
print(sorted(adapters.active()))
import arq
print(found.names, sorted(adapters.active()))
with adapters.instrument("auto") as third:
    print(third.names)
    import dramatiq
    print(third.names)
"""
    assert printed_by(program).splitlines() == [
        "() set()",
        "('rq',) ('rq',) ['rq']",
        "('rq', 'pydantic-ai') ('rq', 'pydantic-ai') ['pydantic-ai', 'rq']",
        "[]",
        "('rq', 'pydantic-ai') []",
        "('pydantic-ai', 'rq', 'arq')",
        "('pydantic-ai', 'rq', 'arq', 'dramatiq')",
    ]


def test_a_framework_that_is_imported_in_many_threads_is_observed_once() -> None:
    program = """
import sys, threading
from otel_agentbus import adapters
from otel_agentbus.adapters import rq as ours
found = []
switch_on = ours.instrument
ours.instrument = lambda: found.append(1) or switch_on()
for name in [name for name in sys.modules if name == "rq" or name.startswith("rq.")]:
    del sys.modules[name]
observed = [adapters.instrument("auto") for _ in range(4)]
threads = [threading.Thread(target=__import__, args=("rq",)) for _ in range(8)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
print(len(found), {one.names for one in observed})
[one.off() for one in observed]
print(sorted(adapters.active()))
"""
    assert printed_by(program).splitlines() == ["1 {('rq',)}", "[]"]


def test_an_import_goes_well_where_the_framework_cannot_be_observed() -> None:
    program = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s")
logging.raiseExceptions = False
from otel_agentbus import adapters
import otel_agentbus.adapters.rq as ours
def fails(): raise RuntimeError("broken")
ours.instrument = fails
for name in [name for name in sys.modules if name == "rq" or name.startswith("rq.")]:
    del sys.modules[name]
found = adapters.instrument("auto")
import rq
print(rq.__name__, found.names)
"""
    lines = printed_by(program).splitlines()
    assert lines[0] == "rq is installed, but cannot be observed"
    assert lines[-1] == "rq ()"


def test_a_module_of_the_program_that_has_a_frameworks_name_is_not_the_framework(tmp_path: Path) -> None:
    (tmp_path / "rq.py").write_text("mine = True")
    program = f"""
import logging, sys
logging.basicConfig(stream=sys.stdout)
sys.path.insert(0, {str(tmp_path)!r})
from otel_agentbus import adapters
found = adapters.instrument("auto")
import rq
print(rq.mine, found.names, adapters.instrument("auto").names)
"""
    assert printed_by(program) == "True () ()"


def test_an_import_goes_well_where_the_installed_package_cannot_be_read() -> None:
    program = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s")
logging.raiseExceptions = False
import importlib.metadata
from otel_agentbus import adapters
found = adapters.instrument("auto")
def gone(name): raise importlib.metadata.PackageNotFoundError(name)
importlib.metadata.distribution = gone
import rq
print(rq.__name__, found.names)
"""
    lines = printed_by(program).splitlines()
    assert lines[0] == "rq cannot be observed: what is installed of it cannot be read"
    assert lines[-1] == "rq ()"


def test_auto_may_stand_beside_a_name() -> None:
    with adapters.instrument("auto", "rq") as found:
        assert found.names[0] == "rq"
        assert found.names.count("rq") == 1


def test_no_framework_is_loaded_before_it_is_asked_for() -> None:
    program = (
        "import sys, otel_agentbus, otel_agentbus.adapters as a; a.available(); "
        "print({'pydantic_ai', 'celery', 'rq', 'arq', 'dramatiq', 'redis'} & set(sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

    assert done.stdout.strip() == "set()"
