"""Python imports this before the program that `otel-agentbus run` starts; it stands alone in its directory.

Every Python that the program starts finds it, too, and is to notice nothing: it looks for itself whether it is meant.
"""

import importlib.machinery
import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
#: What `multiprocessing` starts a fork server with, Linux's default since Python 3.14.
_FORK_SERVER = "from multiprocessing.forkserver import main"


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
    """Whether this is the process that became the program, or one of `multiprocessing`'s: spawned, or a fork server."""
    observed = os.environ.get("AGENTBUS_RUN_PROCESS")
    if observed is None or observed == str(os.getpid()):
        return observed is not None
    given = sys.orig_argv
    return "--multiprocessing-fork" in given or any(_FORK_SERVER in argument for argument in given)


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
