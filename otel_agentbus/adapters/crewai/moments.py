"""What happens in a run and is no span of its own: memory, knowledge, guardrails, reasoning, methods of a flow.

Each is a domain event under CrewAI's own name for it, on the span of what it happens in. Only counts, durations,
verdicts and names are told, never what was asked, found, remembered or decided.
"""

from __future__ import annotations

from typing import Any

#: The types of CrewAI's events that are told: how things have ended, not that they have begun.
TOLD = frozenset(
    {
        *("memory_query_completed", "memory_query_failed", "memory_save_completed", "memory_save_failed"),
        *("memory_retrieval_completed", "memory_retrieval_failed"),
        *("knowledge_query_completed", "knowledge_query_failed"),
        *("knowledge_search_query_completed", "knowledge_search_query_failed"),
        *("llm_guardrail_completed", "llm_guardrail_failed"),
        *("agent_reasoning_completed", "agent_reasoning_failed", "plan_replan_triggered", "goal_achieved_early"),
        *("context_window_summarization_completed", "context_window_summarization_failed"),
        *("tool_failure_detected", "tool_validate_input_error", "tool_selection_error"),
        *("task_completed", "task_failed"),
        *("method_execution_finished", "method_execution_failed", "method_execution_paused"),
        *("human_feedback_requested", "human_feedback_received", "flow_input_requested", "flow_input_received"),
        *("mcp_connection_completed", "mcp_connection_failed", "mcp_tool_execution_failed", "mcp_config_fetch_failed"),
        *("a2a_delegation_completed", "a2a_conversation_completed", "a2a_connection_error"),
    }
)
#: The fields that are told, where an event has them.
_FIELDS = (
    *("attempt", "connection_duration_ms", "error_type", "flow_name", "is_multiturn", "is_reconnect", "limit"),
    *("method_name", "query_time_ms", "ready", "retrieval_time_ms", "retry_count", "save_time_ms", "score_threshold"),
    *("server_name", "status", "status_code", "success", "task_id", "tool_name", "total_turns", "transport_type"),
)


def data(event: Any) -> dict[str, Any]:
    """What a domain event says of this one."""
    found = {name: getattr(event, name, None) for name in _FIELDS}
    task = getattr(event, "task", None)
    if task is not None and found["task_id"] is None:
        found["task_id"] = str(getattr(task, "id", ""))
    return {name: _said(value) for name, value in found.items() if value is not None}


def _said(value: Any) -> Any:
    if isinstance(value, type):
        return value.__qualname__
    return value if isinstance(value, (str, int, float, bool)) else str(value)
