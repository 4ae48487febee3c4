"""One conversation with the program: its lines, as they arrive, become blocks.

A turn, from a prompt to its result, is one run of the main agent; a sub-agent's lines name the tool call that it runs
for. Whatever a line says is told where it is read, in the SDK's reader, so that times are the program's and not the
consumer's, and nothing is ever current in the consumer.
"""

from __future__ import annotations

import contextvars
import itertools
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from ... import observe
from ...blocks import Block
from ...callbacks import OpenBlocks, hold
from ...events import DomainEvent
from ..losses import Shielded
from ..nearby import CLAUDE
from . import mapping
from .mapping import Raw
from .runs import Cancelled, Run

_numbers = itertools.count(1)


class Tool(NamedTuple):
    """A tool call that runs, and whose it is."""

    run: Run
    name: str
    arguments: dict[str, Any]


class Session:
    """What one connection to the program has told so far."""

    def __init__(self, blocks: OpenBlocks, options: Any) -> None:
        self.number = next(_numbers)
        #: Whether the SDK's own object for the connection has found us.
        self.taken = False
        #: Whether somebody else than the connection's end will tell of the end.
        self.awaited = False
        self._interrupted = False
        self._blocks = blocks
        self._options = options
        self._home = contextvars.copy_context()
        self._model: str | None = getattr(options, "model", None)
        #: The agents that run: the turn by None, a sub-agent by the tool call that it runs for.
        self._runs: dict[str | None, Run] = {}
        self._tools: dict[str, Tool] = {}
        self._tasks: dict[str, str] = {}
        #: The tool calls whose sub-agents go on after their results.
        self._background: set[str] = set()
        self._prompts: deque[tuple[contextvars.Context, Any, str | None]] = deque(maxlen=100)
        self._turns = 0
        self._result: Raw | None = None if _resumed(options) else {}

    # -- turns --------------------------------------------------------------------------------------------------------

    def prompt(self, prompt: Any, conversation: str | None = None) -> None:
        """The application says something: a turn of its own or, while one is going on, a part of that or of a next."""
        begins = None not in self._runs
        if begins:
            self._prompts.clear()  # what is left there was answered within an earlier turn
        self._prompts.append((contextvars.copy_context(), prompt, conversation))
        if begins:
            self._turn()

    def interrupt(self) -> None:
        """The application wants the turn to stop."""
        self._interrupted = None in self._runs

    def _turn(self) -> Run:
        """The turn that is going on, or a new one: of the next prompt, or of one that the program gives itself."""
        turn = self._runs.get(None)
        if turn is not None:
            return turn
        place, prompt, conversation = self._prompts.popleft() if self._prompts else (self._home, None, None)
        self._turns += 1
        options, text = self._options, prompt if isinstance(prompt, str) else None
        provider = mapping.provider_of(self._model, options)
        block = observe.agent(
            mapping.agent_name(options),
            provider=provider,
            model=self._model,
            conversation_id=conversation or getattr(options, "session_id", None) or getattr(options, "resume", None),
            instructions=mapping.instructions_of(options),
            input=text,
        )
        turn = self._new_run(None, (self.number, self._turns), provider, self._model, options.max_turns)
        place.copy().run(lambda: self._blocks.begin(turn.key, block, current=False))
        if text is not None:
            turn.history.append(mapping.user_message(text))
        if text is not None and text.startswith("/"):
            turn.answers = -1  # a command of the program's own, which perhaps asks no model
        return turn

    def _new_run(
        self, tool: str | None, key: Hashable, provider: str, model: str | None, limit: int | None = None
    ) -> Run:
        stream = bool(getattr(self._options, "include_partial_messages", False))
        run = self._runs[tool] = Run(self._blocks, key, model, provider, stream=stream, limit=limit)
        return run

    def inside(self, tool: str | None = None) -> Callable[[], None] | None:
        """Make the tool call, or else the turn, current here; gives back how to leave it."""
        turn = self._runs.get(None)
        block = (None if tool is None else self.block_of(tool)) or (
            None if turn is None else self._blocks.get(turn.key)
        )
        return None if block is None else hold(block)

    def block_of(self, tool: str) -> Block | None:
        """The block of a tool call that runs."""
        return self._blocks.get((self.number, tool))

    def tool_of(self, request: Raw) -> str | None:
        """The tool call that a server of this process is asked for."""
        message = request.get("message") or {}
        if message.get("method") != "tools/call":
            return None
        params = message.get("params") or {}
        told = mapping.text((params.get("_meta") or {}).get(CLAUDE))
        if told in self._tools:
            return told
        name, arguments = f"mcp__{request.get('server_name')}__{params.get('name')}", params.get("arguments") or {}
        if told is not None:
            self._begin_tool(self._turn(), told, name, arguments)
            return told
        same = (id for id, tool in self._tools.items() if tool.name == name and tool.arguments == arguments)
        return next(same, None)

    # -- lines --------------------------------------------------------------------------------------------------------

    def hear(self, line: Raw) -> None:
        """One line of the program's. Raises nothing but `BudgetExceeded`."""
        with Shielded("a line of Claude Code could not be told"):
            listener = _LISTENERS.get(line.get("type", ""))
            if listener is not None:
                listener(self, line)

    def _on_assistant(self, line: Raw) -> None:
        run = self._run_of(line)
        run.tell(line)
        for block in mapping.blocks_of(line):
            if block.get("type") == "tool_use":
                self._begin_tool(run, block["id"], block["name"], block.get("input") or {})

    def _on_stream_event(self, line: Raw) -> None:
        self._run_of(line).partial(line.get("event") or {})

    def _on_user(self, line: Raw) -> None:
        blocks = mapping.blocks_of(line)
        results = [block for block in blocks if block.get("type") == "tool_result"]
        for block in results:
            self._end_tool(block, line.get("tool_use_result"))
        parent = line.get("parent_tool_use_id")
        run = self._runs.get(parent) if results or parent is None else self._run_of(line)
        if run is None or not (results or parent):
            return
        said = {"role": "tool" if results else "user", "parts": mapping.parts_of(blocks)}
        if run.history[:1] != [said]:  # else it is a sub-agent's prompt, which its tool call has told
            run.history.append(said)
        if results:
            run.settle()
        if not self._interrupted:
            run.ask()

    def _on_system(self, line: Raw) -> None:
        kind = line.get("subtype")
        if kind == "init":
            self._model = mapping.text(line.get("model")) or self._model
            turn = self._turn()
            turn.model = turn.model or self._model
            if turn.answers == 0:
                turn.ask()
        elif kind == "task_started" and line.get("task_type") in (None, "local_agent"):
            tool = line.get("tool_use_id")
            if tool in self._tools:
                self._tasks[line["task_id"]] = str(tool)
                self._sub_agent(str(tool))
        elif kind in ("task_notification", "task_updated"):
            self._on_task(line, line.get("status") or (line.get("patch") or {}).get("status"))
        elif kind in mapping.MOMENTS:
            self._tell(DomainEvent(name=f"claude.{kind}", data=mapping.moment(line)))

    def _tell(self, event: DomainEvent) -> None:
        runtime = observe.installed()
        leave = self.inside()
        if runtime is not None and leave is not None:
            runtime.emit(event)
        if leave is not None:
            leave()

    def _on_task(self, line: Raw, status: Any) -> None:
        tool = self._tasks.get(line.get("task_id", ""))
        if tool is None or status not in mapping.ENDED_TASK:
            return
        del self._tasks[line["task_id"]]
        fields: dict[str, Any] = {"tokens_used": (line.get("usage") or {}).get("total_tokens")}
        if status == "failed":
            fields |= {"outcome": "error", "error_type": "task_failed", "error_message": line.get("summary")}
        error = Cancelled() if status in ("stopped", "killed") else None
        self._end_sub_agent(tool, error, **fields)

    def _on_result(self, result: Raw) -> None:
        turn = self._runs.get(None)
        if turn is None and not self._prompts:
            return  # a second telling, or the end of a turn that we have not seen begin
        turn = turn or self._turn()
        aborted = mapping.is_aborted(result) or (self._interrupted and result.get("subtype") != "success")
        self._interrupted = False
        error = Cancelled() if aborted else None
        tokens, cost = mapping.model_totals(result, self._result or {})
        if self._result is None and "model_usage_since_last_result" not in result:
            tokens = cost = None  # a session that goes on: its totals have those of before
        self._result = result
        fields = {**mapping.result_fields(result), "tokens_used": tokens, "cost_usd": cost, "model": turn.model}
        if aborted:
            fields = {name: value for name, value in fields.items() if name not in _BLAME}
        self._end_run(None, error, **fields)

    # -- tools and sub-agents -----------------------------------------------------------------------------------------

    def _begin_tool(self, run: Run, id: str, name: str, arguments: dict[str, Any]) -> None:
        if id in self._tools:
            return
        self._tools[id] = Tool(run, name, arguments)
        run.waiting.add(id)
        if name in mapping.DELEGATING and arguments.get("run_in_background"):
            self._background.add(id)
        block = observe.tool(name, tool_call_id=id, arguments=arguments)
        self._blocks.begin((self.number, id), block, parent=run.key, current=False)

    def _end_tool(self, result: Raw, details: Any) -> None:
        id = result.get("tool_use_id", "")
        tool = self._tools.pop(id, None)
        if tool is None:
            return
        tool.run.waiting.discard(id)
        if isinstance(details, dict) and details.get("status") == "async_launched":
            self._background.add(id)
        failed = bool(result.get("is_error"))
        error = Cancelled() if failed and self._interrupted else None
        said, blame = mapping.text_of(result.get("content")), {}
        if failed and error is None:
            blame = {"outcome": "error", "error_type": "tool_error", "error_message": mapping.failure(said)}
        if id not in self._background or failed:
            self._end_sub_agent(id, error, output=None if failed else said, **blame)
        self._blocks.end((self.number, id), error, result=said, **blame)

    def _run_of(self, line: Raw) -> Run:
        parent = line.get("parent_tool_use_id")
        return self._turn() if parent is None else self._sub_agent(parent)

    def _sub_agent(self, id: str) -> Run:
        """The run of the sub-agent that works for this tool call."""
        run = self._runs.get(id)
        if run is not None:
            return run
        tool = self._tools.get(id)
        above = self._turn() if tool is None else tool.run
        given = {} if tool is None else tool.arguments
        name = str(given.get("subagent_type") or ("agent" if tool is None else "general-purpose"))
        definition = (getattr(self._options, "agents", None) or {}).get(name)
        model = given.get("model") or getattr(definition, "model", None)
        model = above.model if model in (None, "inherit") else model
        block = observe.agent(
            name,
            provider=above.provider,
            model=model,
            instructions=getattr(definition, "prompt", None),
            input=given.get("prompt"),
        )
        run = self._new_run(id, (self.number, "agent", id), above.provider, model)
        parent = (self.number, id)
        known = self._blocks.get(parent) is not None
        self._blocks.begin(run.key, block, parent=parent if known else above.key, current=False)
        if given.get("prompt"):
            run.history.append(mapping.user_message(given["prompt"]))
        run.ask()
        return run

    def _end_sub_agent(self, id: str, error: BaseException | None, **fields: Any) -> None:
        self._background.discard(id)
        if id in self._runs:
            self._end_run(id, error, **fields)

    def _end_run(self, id: str | None, error: BaseException | None, **fields: Any) -> None:
        """End an agent with all that it has left open, but for what goes on in the background."""
        run = self._runs.pop(id)
        if id is not None and error is None:
            run.answer()  # its last answer is often not told; that its result is there, shows that it has come
        else:
            run.close(error)
        for tool in [tool for tool in run.waiting if tool not in self._background]:
            self._tools.pop(tool, None)
            self._end_sub_agent(tool, Cancelled())
            self._blocks.end((self.number, tool), Cancelled())
        self._blocks.end(run.key, error, **fields)

    def over(self, error: BaseException | None = None) -> None:
        """The connection is over: whatever still runs was left or, where something went wrong, has failed."""
        with Shielded("the end of a Claude Code session could not be told"):
            self._background.clear()
            for id in sorted(self._runs, key=lambda id: id is None):  # the turn last
                if id in self._runs:
                    self._end_run(id, (error or Cancelled()) if id is None else Cancelled())
            for id in [*self._tools]:
                self._tools.pop(id)
                self._blocks.end((self.number, id), Cancelled())
            self._prompts.clear()


_BLAME = frozenset({"outcome", "error_type", "error_message"})
_LISTENERS: dict[str, Callable[[Session, Raw], None]] = {
    "assistant": Session._on_assistant,
    "user": Session._on_user,
    "system": Session._on_system,
    "stream_event": Session._on_stream_event,
    "result": Session._on_result,
}


def _resumed(options: Any) -> bool:
    """Whether the session goes on from an earlier one, whose totals the first result then has."""
    return bool(getattr(options, "resume", None) or getattr(options, "continue_conversation", False))
