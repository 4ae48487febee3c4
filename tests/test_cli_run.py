"""`otel-agentbus run`: a program that knows nothing of us is observed, and is what it would be without us."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .receivers import HttpReceiver

#: A program with pydantic-ai, as its documentation has it.
AGENT = """
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

agent = Agent(TestModel(custom_output_text="done"), name="clerk")
if __name__ == "__main__":
    print(agent.run_sync("go").output)
"""


def clean(**environment: str) -> dict[str, str]:
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(("OTEL_", "AGENTBUS_"))}
    return {**inherited, "PYTHONWARNINGS": "ignore", **environment}


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, with these arguments."""
    return subprocess.run(
        [sys.executable, "-m", "otel_agentbus", "run", *arguments],
        cwd=cwd,
        env=clean(PYTHONPATH=str(Path(__file__).parent.parent), **environment),
        input="typed\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def plainly(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same without us."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=clean(PYTHONPATH=str(Path(__file__).parent.parent)),
        input="typed\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def spans_of(receiver: HttpReceiver) -> set[str]:
    return {
        span.name
        for request in receiver.of("/v1/traces")
        for resource in request.message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }


def exporting(receiver: HttpReceiver) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_METRICS_EXPORTER": "none"}


def test_an_unmodified_program_is_observed(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(AGENT)
    with HttpReceiver() as receiver:
        done = run("app.py", cwd=tmp_path, **exporting(receiver))
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
        assert spans_of(receiver) == {"invoke_agent clerk", "chat test"}


def test_so_is_a_module_and_a_command(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(AGENT)
    (tmp_path / "clerk").write_text(f"#!{sys.executable}\nimport runpy\nrunpy.run_path('app.py', run_name='__main__')")
    (tmp_path / "clerk").chmod(0o755)
    for arguments in (("-m", "app"), ("./clerk",)):
        with HttpReceiver() as receiver:
            done = run(*arguments, cwd=tmp_path, **exporting(receiver))
            assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
            assert spans_of(receiver) == {"invoke_agent clerk", "chat test"}


def test_none_observes_nothing(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(AGENT)
    with HttpReceiver() as receiver:
        done = run("app.py", cwd=tmp_path, AGENTBUS_INSTRUMENT="none", **exporting(receiver))
        assert (done.returncode, done.stdout) == (0, "done\n")
        assert spans_of(receiver) == set()


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("import sys; print(sys.argv, sys.path[0], __name__, __file__, sys.stdin.read())", id="its view"),
        pytest.param("import sys; print('half', file=sys.stderr); sys.exit(7)", id="exit code"),
        pytest.param("def broken():\n    raise LookupError('gone')\nbroken()", id="traceback"),
        pytest.param("import os; os._exit(5)", id="hard exit"),
        pytest.param("import contextvars, threading; print(len(contextvars.copy_context()))", id="context"),
    ],
)
def test_the_program_is_what_it_is_without_us(tmp_path: Path, program: str) -> None:
    (tmp_path / "app.py").write_text(program)
    arguments = ("app.py", "--help", "-m", "two words", "--")

    plain, observed = plainly(*arguments, cwd=tmp_path), run(*arguments, cwd=tmp_path)

    assert (observed.returncode, observed.stdout, observed.stderr) == (plain.returncode, plain.stdout, plain.stderr)


def test_a_directory_that_has_the_name_of_a_command_is_not_in_its_way(tmp_path: Path) -> None:
    (tmp_path / "clerk").mkdir()
    there = tmp_path / "bin"
    there.mkdir()
    (there / "clerk").write_text(f"#!{sys.executable}\nprint('the command')\n")
    (there / "clerk").chmod(0o755)
    path = f"{there}{os.pathsep}{os.environ['PATH']}"
    done = run("clerk", cwd=tmp_path, PATH=path)
    assert (done.returncode, done.stdout) == (0, "the command\n")

    (tmp_path / "clerk" / "__main__.py").write_text("print('the directory')")
    done = run("clerk", cwd=tmp_path, PATH=path)
    assert (done.returncode, done.stdout) == (0, "the directory\n")


@pytest.mark.parametrize(
    ("first", "why"), [("print('no interpreter is named')", "Exec format error"), ("#!/no/such", "No such file")]
)
def test_a_command_that_cannot_be_executed_is_refused_in_one_sentence(tmp_path: Path, first: str, why: str) -> None:
    command = tmp_path / "broken"
    command.write_text(f"{first}\n")
    command.chmod(0o755)
    done = run(str(command), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (126, "")
    assert done.stderr.startswith(f"{command} cannot be run: {why}")
    assert done.stderr.count("\n") == 1


def test_a_signal_ends_it_as_it_would_without_us(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import signal, os; os.kill(os.getpid(), signal.SIGTERM); signal.pause()")
    assert run("app.py", cwd=tmp_path).returncode == -signal.SIGTERM


def test_the_sitecustomize_that_was_there_is_still_the_one(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "sitecustomize.py").write_text("HERE = 'theirs'; print('loaded')")
    (tmp_path / "app.py").write_text("import sitecustomize; print(sitecustomize.HERE)")
    both = os.pathsep.join([str(tmp_path / "theirs"), str(Path(__file__).parent.parent)])
    done = subprocess.run(
        [sys.executable, "-m", "otel_agentbus", "run", "app.py"],
        cwd=tmp_path,
        env=clean(PYTHONPATH=both),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # once for the command itself, once for the program
    assert (done.returncode, done.stdout, done.stderr) == (0, "loaded\nloaded\ntheirs\n", "")


CHILDREN = """
import json, multiprocessing, subprocess, sys

OBSERVED = "import sys; print(int('otel_agentbus.bus' in sys.modules))"

def observed():
    from otel_agentbus.blocks import installed
    return installed() is not None

if __name__ == "__main__":
    told = {"itself": observed()}
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            told[method] = pool.apply(observed)
    done = subprocess.run([sys.executable, "-c", OBSERVED], capture_output=True, text=True, check=True)
    told["another program"] = bool(int(done.stdout))
    print(json.dumps(told))
"""


def test_its_own_processes_are_observed_and_other_programs_are_not(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(CHILDREN)
    done = run("app.py", cwd=tmp_path)
    assert done.stderr == ""
    assert json.loads(done.stdout) == {
        **dict.fromkeys(("itself", "fork", "spawn", "forkserver"), True),
        "another program": False,
    }


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (["app.py"], {"AGENTBUS_INSTRUMENT": "no-such-thing"}, "There is no adapter named 'no-such-thing'"),
        (["app.py"], {"AGENTBUS_GRACE": "soon"}, "AGENTBUS_GRACE is 'soon'"),
        (["no-such-command"], {}, "There is no command 'no-such-command'"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence_before_the_program_runs(
    tmp_path: Path, arguments: list[str], environment: dict[str, Any], sentence: str
) -> None:
    (tmp_path / "app.py").write_text("print('it runs')")
    done = run(*arguments, cwd=tmp_path, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(sentence)
    assert len(done.stderr.splitlines()) == 1


CONNECTS = """
import otel_agentbus as agentbus
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

with agentbus.connect(%s) as bus:
    with agentbus.agent("mine"):
        Agent(TestModel(custom_output_text="done"), name="clerk").run_sync("go")
print(bus.health()["events"]["emitted"])
"""


@pytest.mark.parametrize(
    "arguments", ["", "instrument='pydantic-ai', validate=True", "redact=lambda name, value: value"]
)
def test_a_program_that_connects_by_itself_has_the_bus_that_it_asks_for(tmp_path: Path, arguments: str) -> None:
    (tmp_path / "app.py").write_text(CONNECTS % arguments)
    with HttpReceiver() as receiver:
        done = run("app.py", cwd=tmp_path, **exporting(receiver))
        assert (done.returncode, done.stdout, done.stderr) == (0, "6\n", "")
        assert spans_of(receiver) == {"invoke_agent mine", "invoke_agent clerk", "chat test"}
