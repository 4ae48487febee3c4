"""Runs the tests of the frameworks' adapters, each where its framework is installed (`python -m tests.frameworks`).

Frameworks contradict one another in what they need, so there are several environments, each with a lock of its own in
`requirements/frameworks`, made once outside the tree. `--oldest` takes the oldest versions that the adapters support.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..environments import ROOT, NotReady
from .places import OLDEST, PLACES, Place

#: What frameworks and their libraries warn of when they are imported is their own affair.
OPTIONS = ("-n", "2", "-o", "filterwarnings=default")


def tests_of(place: Place) -> list[str]:
    """The files of tests that run there."""
    here = Path(__file__).parent
    files = [here / f"test_{framework.replace('-', '_')}.py" for framework in place.frameworks]
    return [str(file.relative_to(ROOT)) for file in (*files, *(here / name for name in place.further)) if file.exists()]


def main() -> int:
    """Run them all; 1 where one fails, or an environment could not be made."""
    parser = argparse.ArgumentParser(description="Run the adapters' tests, each where its framework is installed.")
    parser.add_argument("--oldest", action="store_true", help="the oldest versions that are supported")
    parser.add_argument("--only", action="append", default=[], metavar="PLACE", help="only this environment")
    parser.add_argument("--make", action="store_true", help="only make the environments ready")
    parser.add_argument("options", nargs="*", help="further options for pytest, behind --")
    asked = parser.parse_args()
    passed = []
    for place in OLDEST if asked.oldest else PLACES:
        if asked.only and place.name not in asked.only:
            continue
        try:
            place.environment.make_ready()
            passed.append(asked.make or place.environment.test(tests_of(place), [*OPTIONS, *asked.options]))
        except NotReady as error:
            print(f"{place.name}: {error}", flush=True)
            passed.append(False)
    return 0 if passed and all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
