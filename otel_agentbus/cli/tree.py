"""`otel-agentbus tree`: the tree of a run from a journal, with durations, tokens, cost, and where the time went."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from otel_agentbus.cli import journals
from otel_agentbus.cli.kept import IDS, Kept, Run
from otel_agentbus.cli.output import Output, quietly_ended, refuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_agentbus.telemetry.pricing import PriceBook


def tree(
    root_id: Annotated[
        str | None, typer.Argument(metavar="ROOT_ID", help="The id of a root invocation, its beginning or its end.")
    ] = None,
    last: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="How many of the last runs to draw.")] = 1,
    journal: Annotated[Path | None, typer.Option(metavar="DIR", help=journals.JOURNAL)] = None,
) -> None:
    """Draw a run from a journal: agents, model calls and tools; how long each took, what it used and cost, how it
    ended, and where the time went. Exit code 2: there is no such run or journal.
    """
    directory, chosen = journals.opened(journal)
    kept = Kept(root_id, last)
    output = Output()
    with quietly_ended():
        for event in output.reading(journals.events_of(directory)):
            kept(event)
        runs = kept.chosen()
        if not runs or (root_id is not None and len(runs) > 1):
            _not_found(root_id, runs, kept)
        prices, gone = journals.prices_of(chosen), journals.gone_from(directory)
        for number, run in enumerate(runs):
            if number:
                output.block("")
            draw(run, output, prices, gone)
        _say_rest(kept, runs, root_id, output)


def draw(run: Run, output: Output, prices: PriceBook | None, gone: Callable[[str], bool]) -> None:
    """Print the tree of the run and its totals."""
    from otel_agentbus.cli.lines import local
    from otel_agentbus.telemetry.outline import Outline
    from otel_agentbus.telemetry.run_view import RunView

    outline = Outline(prices)
    for event in run.in_order():
        outline(event)
    outline.interrupt(gone)
    view = RunView(outline, output.console)
    roots = [root for root in outline.roots if root.kind != "moment"] or outline.roots
    for root in roots:
        moment = local(root.started_ns)
        began = "" if moment is None else f", {moment:%Y-%m-%d %H:%M:%S}"
        output.sentence(f"Run {run.root}{began}, {view.outcome(root)}", "bold")
        output.block(view.run(root))
        if most := view.most(root):
            output.sentence(most)
    if outline.totals.llm.calls:
        output.block("")
        output.block(view.spent())
    output.block("")
    output.sentence(view.sum())
    if run.further:
        output.sentence(f"{run.further:,} further events of this run are not shown.", "yellow")


def _say_rest(kept: Kept, runs: list[Run], root_id: str | None, output: Output) -> None:
    all_runs = sum(kept.ids.values()) or len(kept.ids)
    if root_id is None and all_runs > len(runs):
        number = f"{all_runs:,}" if len(kept.ids) < IDS else f"more than {IDS:,}"
        shown = "The last" if len(runs) == 1 else f"The last {len(runs)}"
        output.block("")
        output.sentence(f"{shown} of {number} runs. `otel-agentbus tree ROOT_ID` draws another one.", "dim")


def _not_found(root_id: str | None, runs: list[Run], kept: Kept) -> NoReturn:
    if root_id is None:
        refuse("The journal holds no runs: nothing in it has an invocation id.")
    if runs:
        ids = ", ".join(run.root for run in runs[:5])
        refuse(f"{len(runs)} runs have an id like {root_id!r}: {ids}{', ...' if len(runs) > 5 else ''}.")
    near, last = ", ".join(kept.near()), ", ".join(kept.latest())
    refuse(f"No run has the id {root_id!r}. " + (f"Did you mean {near}?" if near else f"The last ones are {last}."))
