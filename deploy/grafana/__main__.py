"""Writes the dashboards that Grafana is started with: `make dashboards`.

`python -m deploy.grafana --plain DIRECTORY` writes them for a Prometheus, or something like it, that does not know
`anchored` (docker-compose.yml says which flag that needs): totals are then estimates, as those of `increase()` are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from .boards import BOARDS
from .panels import Board

DASHBOARDS = Path(__file__).with_name("dashboards")


def rendered(board: Board, *, plain: bool = False) -> str:
    """The file's content."""
    text = json.dumps(board.json(), indent=1, ensure_ascii=False) + "\n"
    return text.replace(" anchored", "") if plain else text


def main(arguments: Sequence[str] | None = None) -> None:
    """Write all of them and, where Grafana reads them, remove what is none any more."""
    parser = argparse.ArgumentParser(prog="python -m deploy.grafana", description=__doc__)
    parser.add_argument("--plain", type=Path, metavar="DIRECTORY", help="write plain ones into this directory instead")
    plain: Path | None = parser.parse_args(arguments).plain
    directory = plain or DASHBOARDS
    directory.mkdir(parents=True, exist_ok=True)
    files = {directory / f"{board.uid}.json": rendered(board, plain=plain is not None) for board in BOARDS}
    for old in set() if plain else set(DASHBOARDS.glob("*.json")) - set(files):
        old.unlink()
    for path, text in files.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
