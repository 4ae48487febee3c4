"""`instrument("otel")`: the global provider's spans, whenever that is set, until it is switched off."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest


def program(text: str) -> str:
    """What a program prints that has a process, and so a global provider, of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _BEGIN + textwrap.dedent(text)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


_BEGIN = textwrap.dedent(
    """
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    import otel_agentbus as agentbus
    from otel_agentbus import testing
    from otel_agentbus.adapters import otel

    def provider():
        trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))

    def agent(name="boss"):
        with trace.get_tracer("somebody").start_as_current_span(f"invoke_agent {name}"):
            pass

    def told(seen):
        print(" ".join(f"{event.kind}:{event.agent}" for event in seen.events))
    """
)


def test_the_provider_that_is_set_is_read() -> None:
    assert (
        program(
            """
            provider()
            found = trace.get_tracer_provider()
            otel.instrument()
            with testing.capture() as seen:
                agent()
                told(seen)
            assert trace.get_tracer_provider() is found
            """
        )
        == "agent.start:boss agent.end:boss"
    )


@pytest.mark.parametrize("early", ["", "from opentelemetry.trace import set_tracer_provider"])
def test_a_provider_that_is_set_later_is_read_from_its_first_span_on(early: str) -> None:
    assert (
        program(
            f"""
            {early}
            switch = otel.instrument()
            with testing.capture() as seen:
                agent("too early")
                {"set_tracer_provider(TracerProvider())" if early else "provider()"}
                agent()
                told(seen)
            """
        )
        == "agent.start:boss agent.end:boss"
    )


def test_a_provider_behind_another_one_is_found_when_a_tree_of_ours_begins() -> None:
    assert (
        program(
            """
            class Proxy(trace.TracerProvider):  # as Logfire has it
                provider = trace.NoOpTracerProvider()
                def get_tracer(self, *args, **named):
                    return self.provider.get_tracer(*args, **named)

            proxy = Proxy()
            trace.set_tracer_provider(proxy)
            otel.instrument()
            with testing.capture() as seen:
                proxy.provider = TracerProvider(shutdown_on_exit=False)
                with agentbus.agent("first"):
                    agent()
                told(seen)
            """
        )
        == "agent.start:first agent.start:boss agent.end:boss agent.end:first"
    )


def test_switched_off_nothing_new_is_read_and_opentelemetry_is_as_it_was_found() -> None:
    assert (
        program(
            """
            setter = vars(trace)["_set_tracer_provider"]
            switch = otel.instrument()
            provider()
            with testing.capture() as seen:
                tracer = trace.get_tracer("somebody")
                with tracer.start_as_current_span("invoke_agent begun"):
                    switch.off()
                    with tracer.start_as_current_span("execute_tool inside"):
                        pass
                agent("new")
                told(seen)
            assert vars(trace)["_set_tracer_provider"] is setter
            print(switch.chained, switch.counts)
            """
        )
        == "agent.start:begun tool.start:begun tool.end:begun agent.end:begun\nFalse {'agent': 1, 'tool': 1}"
    )


def test_switched_on_again_each_span_is_read_once() -> None:
    assert (
        program(
            """
            provider()
            otel.instrument().off()
            otel.instrument().off()
            otel.instrument()
            assert len(trace.get_tracer_provider()._active_span_processor._span_processors) == 1
            with testing.capture() as seen:
                agent()
                told(seen)
            """
        )
        == "agent.start:boss agent.end:boss"
    )


def test_our_own_provider_as_the_global_one_has_others_spans_read_and_ours_not() -> None:
    assert (
        program(
            """
            otel.instrument()
            events = []
            with agentbus.connect(set_global=True, settings=agentbus.Settings(traces_exporter="console")) as bus:
                bus.subscribe(events.append)
                with agentbus.agent("ours"):
                    agent("theirs")
            import sys
            print(" ".join(f"{event.kind}:{event.agent}" for event in events), file=sys.stderr)
            assert [event.agent for event in events] == ["ours", "theirs", "theirs", "ours"]
            """
        ).count('"name": "invoke_agent')
        == 2
    )


def test_the_child_of_a_fork_leaves_to_its_parent_what_had_begun() -> None:
    assert (
        program(
            """
            import os
            provider()
            otel.instrument()
            with testing.capture() as seen:
                with trace.get_tracer("somebody").start_as_current_span("invoke_agent boss"):
                    child = os.fork()
                    if not child:
                        agent("in the child")
                if not child:
                    ours = [event.agent for event in seen.events[1:]]
                    os._exit(0 if ours == ["in the child", "in the child"] else 1)
                assert os.waitpid(child, 0)[1] == 0
                told(seen)
            """
        )
        == "agent.start:boss agent.end:boss"
    )
