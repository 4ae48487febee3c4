"""The table of `make bench` on a sample so small that its numbers mean nothing: what it says of them is right."""

from __future__ import annotations

import time

import pytest

from benchmarks import relay, relay_house, relay_programs
from benchmarks.__main__ import BENCHES, main
from benchmarks.table import HEAD, TRIES, Effort, Row, Timed, lines, measured, sample
from otel_agentbus import testing


def row(ratio: float, target: float | None = 1.0, *, binding: bool = True) -> Row:
    return Row("case", ratio * 100, "the other", 100, target, binding=binding)


@pytest.mark.parametrize(
    ("found", "verdict", "fails"),
    [
        (row(0.9), "OK", False),
        (row(1.0), "OK", False),
        (row(1.4), "slack", False),
        (row(1.6), "over", True),
        (row(1.6, binding=False), "over", False),
        (row(9.0, None), "", False),
    ],
)
def test_a_ratio_holds_or_is_over_its_target_times_the_slack(found: Row, verdict: str, fails: bool) -> None:
    assert (found.verdict(1.5), found.fails(1.5)) == (verdict, fails)


def test_what_is_over_its_target_is_measured_again_and_the_best_counts() -> None:
    ratios = iter([(2.0, 0.5), (3.0, 0.7), (1.2, 0.9)])
    rows = measured(lambda _: [row(ratio) for ratio in next(ratios)], Effort(), 1.5)
    assert [found.ratio for found in rows] == [1.2, 0.5]


def test_what_stays_over_its_target_is_given_up_after_three_runs() -> None:
    runs: list[Effort] = []

    def bench(effort: Effort) -> list[Row]:
        runs.append(effort)
        return [row(2.0 + len(runs))]

    (found,) = measured(bench, Effort(1), 1.5)
    assert (len(runs), found.ratio, found.fails(1.5)) == (TRIES, 3.0, True)


def test_what_holds_is_measured_once() -> None:
    rows = iter([[row(1.4)]])
    assert measured(lambda _: next(rows), Effort(), 1.5) == [row(1.4)]


def test_the_table_has_a_line_for_each_row() -> None:
    rows = [row(1.25), Row("another case", 12_345, "nothing", 1000, 14, unit="B", binding=False), row(20, None)]
    assert list(lines(rows, 1.5)) == [
        "case          measured  against    baseline  ratio  target",
        "------------  --------  ---------  --------  -----  ------  -----",
        "case            125 ns  the other    100 ns  1.250       1  slack",
        "another case  12,345 B  nothing     1,000 B   12.3      14  (OK)",
        "case          2,000 ns  the other    100 ns   20.0",
    ]


def test_each_sample_is_prepared_and_the_first_lap_only_warms_up() -> None:
    calls: list[str] = []
    timed = Timed(lambda: calls.append("call"), number=4, prepare=lambda: calls.append("prepare"))
    taken = sample({"case": timed}, Effort(rounds=2, share=0.5))
    assert calls == ["prepare", "call", "call"] * 3
    assert list(taken) == ["case"]


@pytest.mark.parametrize("name", BENCHES)
def test_every_bench_runs_and_prints_its_rows(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main([name, "--rounds", "1", "--share", "0.02", "--slack", "1e9"])
    title, head, rule, *rows = capsys.readouterr().out.splitlines()
    assert code == 0
    assert title.startswith("Python ")
    assert head.split() == [word for word in HEAD if word]
    assert set(rule) <= {"-", " "}
    assert rows


def test_the_run_fails_when_a_ratio_is_over_its_target(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(BENCHES, "router", lambda _: [row(1.2), Row("slow case", 3, "fast", 1, 1.0)])
    assert main(["router"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "Over target x 1.5: slow case"
    assert main(["router", "--slack", "4"]) == 0


def test_an_unknown_bench_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["routers"])
    assert "there is no benchmark 'routers'" in capsys.readouterr().err


def test_the_relay_is_not_measured_without_redis(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(relay_house, "installed", lambda: None)
    assert relay.main([]) == 2
    assert capsys.readouterr().err == "redis-server is not installed: `make backends` does it.\n"


def test_a_run_of_the_relays_benchmark_has_the_events_and_spans_that_are_counted_on() -> None:
    with testing.capture() as seen:
        relay_programs.run(1)
    assert (len(seen.events), len(seen.events) // 2) == (relay_programs.EVENTS, relay_programs.SPANS)


def test_what_a_phase_calls_that_is_a_phase_too_counts_there_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "thread_time", lambda: now[0])

    class Work:
        def outer(self) -> str:
            now[0] += 1
            self.inner()
            now[0] += 2
            return "done"

        def inner(self) -> None:
            now[0] += 10

    clock = relay_programs.Phases()
    clock.of(Work, "outer", "apply")
    clock.of(Work, "inner", "parse")
    now[0] += 0.5
    assert Work().outer() == "done"
    assert clock.taken == {"outside": 0.5, "apply": 3.0, "parse": 10.0}
