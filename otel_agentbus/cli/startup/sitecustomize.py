"""Python imports this before the program that `otel-agentbus run` starts; it stands alone in its directory.

Every Python that the program starts finds it, too, and is to notice nothing: it looks for itself whether it is meant.
"""

import importlib.machinery
import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))


def _hand_over() -> None:
    """Import the `sitecustomize` that Python would have found without this one, if there is one."""
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != _HERE]
    if importlib.machinery.PathFinder.find_spec(__name__) is not None:
        ours = sys.modules.pop(__name__)
        try:
            __import__(__name__)
        finally:
            sys.modules.setdefault(__name__, ours)


def _is_meant() -> bool:
    """Whether this is the process that became the program, or one of `multiprocessing`'s that it has spawned."""
    observed = os.environ.get("AGENTBUS_RUN_PROCESS")
    return observed == str(os.getpid()) or (observed is not None and "--multiprocessing-fork" in sys.orig_argv)


try:
    _hand_over()
finally:
    if _is_meant():
        try:
            from otel_agentbus.starting import begin
        except ImportError as error:  # the command is a script of another Python's
            print(f"otel-agentbus: {sys.executable} runs unobserved: {error}", file=sys.stderr)
        else:
            begin()
