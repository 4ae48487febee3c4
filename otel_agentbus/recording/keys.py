"""Which events belong together, for journals that are in parts: the tree of runs, a deployment, else the source."""

from __future__ import annotations

from collections import OrderedDict

from ..events import Event

#: How many runs are remembered, each with the root of its tree.
RUNS = 16_384


class Keys:
    """The key of each event of one process. Not thread-safe."""

    def __init__(self) -> None:
        self._roots: OrderedDict[str, str] = OrderedDict()

    def key_of(self, event: Event) -> str:
        """The tree that the event belongs to, as far as that is known; all events of a deployment are together, too."""
        deployment: str | None = getattr(event, "deploy_id", None)
        if deployment is not None:
            return str(deployment)
        run, parent = event.invocation_id, event.parent_invocation_id
        if run is None and parent is None:
            return event.root_invocation_id or f"@{event.source or ''}"
        root = event.root_invocation_id or self._known(run) or self._known(parent) or parent or run or ""
        if run is not None:
            self._remember(run, root)
        return root

    def _known(self, run: str | None) -> str | None:
        return None if run is None else self._roots.get(run)

    def _remember(self, run: str, root: str) -> None:
        if self._roots.get(run) != root:
            self._roots[run] = root
            if len(self._roots) > RUNS:
                self._roots.popitem(last=False)
        else:
            self._roots.move_to_end(run)
