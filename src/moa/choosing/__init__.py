"""Choosing: which models, in which pattern, for a task on a machine, with reasons and numbers.

    ranking = choose(Task(job="classify", per_day=10_000, latency_s=0.3), machine())
    print(ranking)

Each pattern is tried with each model that fits; what breaks a limit of the task is rejected with
the reason, and the rest is ranked by one score whose weights stand in `scores.py`. Figures are
estimates, but for those that `moa bench` measured here.
"""
