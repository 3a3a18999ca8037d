"""The advisor: which models for a task on a machine, with memory, hours and price.

    from moa.advisor.choice import choose
    from moa.advisor.task import Task

    for plan in choose(Task(job="classify", per_day=10_000, latency_s=0.3)).plans:
        print(plan, plan.quality, plan.hours)

A model that breaks a limit of the task is left out with the reason; the rest is ranked by speed,
by time and price, or by depth, as the task prefers. Figures are estimates.
"""
