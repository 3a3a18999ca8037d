"""The advisor: which models for a task on a machine, with reasons and numbers.

    from moa.advisor.choice import choose
    from moa.advisor import Task

    print(choose(Task(job="classify", per_day=10_000, latency_s=0.3)))

Each model that fits is tried alone, and in pairs of a small and a large one. What breaks a limit of
the task is rejected with the reason; the rest is ranked by speed, price or depth, as the task
prefers. Figures are estimates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moa.advisor.task import Task as Task


def __getattr__(name: str) -> object:
    """Load `Task` at first use, so that a command line that needs only words loads nothing."""
    if name == "Task":
        from moa.advisor.task import Task

        return Task
    raise AttributeError(f"module 'moa.advisor' has no attribute {name!r}")
