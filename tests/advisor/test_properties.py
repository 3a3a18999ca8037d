"""What holds of every ranking, whatever the task and the machine."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moa.advisor.choice import choose
from moa.advisor.fit import MAX_SEQUENCES, LocalModel, quantisations
from moa.advisor.hardware import GPU, Machine, Placement, list_placements
from moa.advisor.task import Task
from moa.config.catalogue import models
from moa.local.words import Complexity, Job, Prefer

from .test_cases import DESK, GIB, L4, LAPTOP, computer

FEW = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
MANY = settings(max_examples=150, deadline=None)
OPEN = [name for name, model in models().items() if model.parameters and "vllm" in model.servers]
MACHINES = st.sampled_from([LAPTOP, DESK, L4, computer(8, cores=4)])
TASKS = st.builds(
    Task,
    job=st.sampled_from(get_args(Job)),
    complexity=st.sampled_from(get_args(Complexity)),
    prefer=st.sampled_from(get_args(Prefer)),
    labels=st.sampled_from([0, 60, 600]),
    languages=st.sampled_from([("en",), ("de",)]),
    per_day=st.sampled_from([None, 100, 100_000]),
    vendors=st.sampled_from([(), ("openai",)]),
)


def at(place: Placement, name: str, tokens: int, concurrency: int = 1) -> list[LocalModel]:
    room = {"tokens": tokens, "concurrency": concurrency}
    model = models()[name]
    return [
        LocalModel(model=model, place=place, quantisation=kind, **room)
        for kind in quantisations(model, place)
    ]


@MANY
@given(
    name=st.sampled_from(OPEN),
    gib=st.integers(1, 200),
    more=st.integers(0, 200),
    tokens=st.integers(1, 8000),
    concurrency=st.integers(1, 200),
)
def test_more_memory_never_makes_a_fitting_model_unfit(
    name: str, gib: int, more: int, tokens: int, concurrency: int
) -> None:
    gpu = GPU(name="any", memory=gib * GIB, free=gib * GIB, capability=(9, 0))
    wider = replace(gpu, memory=(gib + more) * GIB, free=(gib + more) * GIB)
    after = list_placements(replace(L4, gpus=(wider,)))[-1]
    for small in at(list_placements(replace(L4, gpus=(gpu,)))[-1], name, tokens, concurrency):
        large = replace(small, place=after)
        assert large.fits or not small.fits
        assert large.max_sequences >= small.max_sequences


@MANY
@given(name=st.sampled_from(OPEN), gib=st.integers(1, 200), tokens=st.integers(1, 8000))
def test_the_largest_concurrency_fits_and_one_more_does_not(
    name: str, gib: int, tokens: int
) -> None:
    for one in at(list_placements(computer(gib))[0], name, tokens):
        if most := one.max_sequences:
            assert replace(one, concurrency=most).fits
            assert not replace(one, concurrency=most + 1).fits or most == MAX_SEQUENCES


@FEW
@given(task=TASKS, machine=MACHINES)
def test_plans_keep_to_the_limits_of_the_task_and_have_figures_that_can_be(
    task: Task, machine: Machine
) -> None:
    for plan in choose(task, machine).plans:
        assert task.vendors or plan.served
        assert plan.served is None or plan.served.fits
        assert plan.usd_per_thousand is None or plan.usd_per_thousand >= 0
        assert plan.quality >= task.needed_quality
        assert not task.per_day or (plan.hours or 0) <= 24
        assert plan.seconds is None or plan.seconds >= 0


@FEW
@given(task=TASKS, machine=MACHINES, seconds=st.sampled_from([0.2, 1.0, 5.0]))
def test_a_tighter_limit_of_time_takes_plans_away_and_reorders_none(
    task: Task, machine: Machine, seconds: float
) -> None:
    loose = choose(task.model_copy(update={"latency_s": seconds * 10}), machine).plans
    tight = choose(task.model_copy(update={"latency_s": seconds}), machine).plans
    assert all(plan.seconds is None or plan.seconds <= seconds for plan in tight)
    before, after = list(map(str, loose)), list(map(str, tight))
    assert [it for it in before if it in after] == [it for it in after if it in before]
