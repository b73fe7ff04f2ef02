"""Callers' programs. Each can be started again after a crash and goes on where the last one ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from durably import Durably

from .faults import Plan
from .oracle import Effects

Scenario = Callable[[Durably, Effects, Plan, Path], Awaitable[None]]
SCENARIOS: dict[str, Scenario] = {}
