"""The advisor: which models for a task on a machine, with reasons and numbers.

    from moa.advisor.choice import choose
    from moa.advisor.task import Task

    print(choose(Task(job="classify", per_day=10_000, latency_s=0.3)))

Each model that fits is tried alone, and in pairs of a small and a large one. What breaks a limit of
the task is rejected with the reason; the rest is ranked by speed, price or depth, as the task
prefers. Figures are estimates.
"""
