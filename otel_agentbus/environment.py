"""The process's environment: read here, for the settings, and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Mapping

from .values import Signal


def variable(name: str) -> str | None:
    """What this variable says; one that is empty says nothing."""
    return os.environ.get(name, "").strip() or None


def as_it_stands(name: str) -> str | None:
    """What this variable holds, spaces and all; None where it is not set."""
    return os.environ.get(name)


def headers(signal: Signal) -> set[str]:
    """The names of the headers that an official exporter would read from the environment by itself."""
    raw = variable(f"OTEL_EXPORTER_OTLP_{signal.upper()}_HEADERS") or variable("OTEL_EXPORTER_OTLP_HEADERS")
    return {entry.partition("=")[0].strip().lower() for entry in (raw or "").split(",")} - {""}


def for_a_program(changes: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program that is started from here: this one, with these variables."""
    return {**os.environ, **changes}


__all__ = ["as_it_stands", "for_a_program", "headers", "variable"]
