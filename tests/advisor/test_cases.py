"""Choosing, case by case, as a table to be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

import pytest

from moa.advisor.choice import Plan, Ranking, choose
from moa.advisor.hardware import GPU, Machine
from moa.advisor.task import Task
from moa.local.words import Job, Prefer

GIB = 2**30


def computer(ram: int = 16, gpu: str | None = None, count: int = 1, *, cores: int = 8) -> Machine:
    """Describe a machine, three quarters of whose RAM are free."""
    gpus = (GPU.from_name(gpu),) * count if gpu else ()
    return Machine(cores=cores, ram=ram * GIB, ram_free=int(ram * 0.75 * GIB), gpus=gpus)


LAPTOP = computer(16)
DESK = computer(64, "RTX 4090", cores=16)
EDGE = computer(8, "Jetson Orin 8GB", cores=6)
L4 = computer(64, "L4", cores=16)
H100S = computer(1000, "H100", 8, cores=64)

Check = Callable[[Ranking], bool]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A task on a machine, and what must hold of the ranking."""

    name: str
    task: Task
    machine: Machine
    fits: bool = True
    sizes: tuple[float, float] = (0, 10_000)
    """Billions of parameters of the best plan's model, if they are known."""
    on: str = ""
    """Words in the place of the best plan's model."""
    left_out: tuple[str, ...] = ()
    """Causes for which a model is left out."""
    holds: Check = field(default=lambda ranking: True)
    hourly_usd: Decimal | None = None


def best(ranking: Ranking) -> Plan:
    return ranking.plans[0]


def _at_home(ranking: Ranking) -> bool:
    return all(plan.served for plan in ranking.plans)


CASES = (
    Case(
        name="a support bot on a laptop, with a key",
        task=Task(job="converse", latency_s=4, per_day=500, vendors=("openai",)),
        machine=LAPTOP,
        on="API",
    ),
    Case(
        name="the same without a key: nothing fits",
        task=Task(job="converse", latency_s=4, per_day=500),
        machine=LAPTOP,
        fits=False,
        left_out=("too slow", "too weak", "too big"),
    ),
    Case(
        name="recommendations on an 8 GB edge board",
        task=Task(job="recommend", per_day=20_000, complexity="simple", latency_s=1),
        machine=EDGE,
        on="Jetson Orin 8GB",
        left_out=("too big",),
        holds=_at_home,
    ),
    Case(
        name="10 million messages a day on one L4, to be sorted, with labels",
        task=Task(job="classify", per_day=10_000_000, labels=500),
        machine=L4,
        sizes=(0.1, 1.3),
        hourly_usd=Decimal("0.8"),
    ),
    Case(
        name="10 million replies a day on one L4: nothing fits",
        task=Task(job="converse", per_day=10_000_000),
        machine=L4,
        fits=False,
        left_out=("too slow",),
    ),
    Case(
        name="data that may not leave this machine, on a desk",
        task=Task(job="extract", per_day=5000),
        machine=DESK,
        sizes=(3, 40),
        holds=_at_home,
    ),
    Case(
        name="German tickets on a processor, where two seconds do",
        task=Task(job="classify", languages=("de",), per_day=5_000, latency_s=2.5),
        machine=LAPTOP,
        sizes=(0.5, 3),
    ),
    Case(
        name="complex labels without examples take a large model",
        task=Task(job="classify", complexity="complex", vendors=("openai",)),
        machine=LAPTOP,
        holds=lambda r: best(r).quality >= 4,
    ),
    Case(
        name="a long answer is no task for a short context",
        task=Task(job="reason", complexity="simple"),
        machine=L4,
        left_out=("too long",),
        holds=lambda r: all((plan.model.context or 3000) > 2700 for plan in r.plans),
    ),
    Case(
        name="a private writer on an Apple M4",
        task=Task(job="create"),
        machine=computer(16, "Apple M4", cores=10),
        on="Apple M4",
    ),
    Case(
        name="a dollar limit that no vendor keeps",
        task=Task(
            job="create",
            complexity="complex",
            vendors=("openai",),
            max_usd_per_thousand=Decimal("0.05"),
        ),
        machine=computer(8, cores=4),
        fits=False,
        left_out=("too dear",),
    ),
    Case(
        name="a hired GPU for twenty essays a day is dear",
        task=Task(job="create", per_day=20, vendors=("openai",)),
        machine=computer(64, "A100", cores=16),
        on="API",
        hourly_usd=Decimal(2),
    ),
    Case(
        name="no model is taken whose makers name other languages only",
        task=Task(job="classify", languages=("fi",), prefer="depth"),
        machine=L4,
        left_out=("other language",),
        holds=lambda r: not {"mistral-7b", "phi-4"} & {plan.model.name for plan in r.plans},
    ),
    Case(
        name="no model is taken that goes wrong in the numbers of an old card",
        task=Task(job="create"),
        machine=computer(2, "T4", cores=2),
        holds=lambda r: not any(plan.model.no_float16 for plan in r.plans),
    ),
    Case(
        name="an old card runs nothing, and its machine's processor does",
        task=Task(job="classify", complexity="simple"),
        machine=Machine(
            cores=8,
            ram=32 * GIB,
            ram_free=24 * GIB,
            gpus=(GPU(name="GTX 1080", memory=8 * GIB, free=8 * GIB, capability=(6, 1)),),
        ),
        on="the processor (8 cores)",
    ),
    Case(
        name="an unknown card: fits, and how fast it is isn't claimed",
        task=Task(job="extract", prefer="depth"),
        machine=Machine(
            cores=2,
            ram=4 * GIB,
            ram_free=1 * GIB,
            gpus=(GPU(name="Foo 9", memory=24 * GIB, free=24 * GIB, capability=(9, 0)),),
        ),
        on="Foo 9",
        holds=lambda r: (best(r).seconds, best(r).hours) == (None, None),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_ranking_of_a_case_is_what_an_engineer_would_say(case: Case) -> None:
    ranking = choose(case.task, case.machine, hourly_usd=case.hourly_usd)
    told = "\n".join(map(str, (*ranking.plans, *ranking.left_out)))
    assert bool(ranking.plans) == case.fits, told
    for plan in ranking.plans[:1]:
        size = plan.model.parameters
        assert size is None or case.sizes[0] <= size / 1e9 <= case.sizes[1], told
        assert case.on in str(plan), told
    assert set(case.left_out) <= {one.cause for one in ranking.left_out}, told
    assert case.holds(ranking), told


@pytest.mark.parametrize("job", ["classify", "converse", "create"])
def test_depth_takes_the_best_and_speed_the_quickest_of_those_good_enough(job: Job) -> None:
    def first(prefer: Prefer) -> Plan:
        task = Task(job=job, prefer=prefer, vendors=("openai",), labels=200)
        return best(choose(task, DESK, hourly_usd=Decimal(1)))

    depth, speed, balance = first("depth"), first("speed"), first("balance")
    assert depth.quality >= max(speed.quality, balance.quality)
    assert (speed.seconds or 0) <= min(depth.seconds or 0, balance.seconds or 0)
    assert (balance.usd_per_thousand or 0) <= (depth.usd_per_thousand or 0)


def test_a_more_complex_task_takes_a_better_model() -> None:
    found = [
        best(choose(Task(job="converse", complexity=one), DESK)).quality
        for one in ("simple", "moderate", "complex")
    ]
    assert found == sorted(found)
    assert found[0] < found[-1]


def test_a_machine_is_paid_all_day_or_else_for_the_hours_that_it_works() -> None:
    def usd(per_day: int | None) -> tuple[float, float]:
        plan = best(choose(Task(job="extract", per_day=per_day), L4, hourly_usd=Decimal(1)))
        return float(plan.usd_per_thousand or 0), plan.hours or 0

    for_a_day, _ = usd(2000)
    assert for_a_day == pytest.approx(24 / 2)
    for_a_job, hours = usd(None)
    assert for_a_job == pytest.approx(hours)


def test_hours_grow_with_the_items_and_shrink_with_the_servers() -> None:
    def hours(per_day: int, gpus: int) -> float:
        plans = choose(Task(job="classify", per_day=per_day), computer(64, "L4", gpus)).plans
        return next(plan.hours or 0 for plan in plans if plan.model.name == "qwen3-4b")

    assert hours(2000, 1) == pytest.approx(2 * hours(1000, 1))
    assert hours(2000, 4) == pytest.approx(hours(2000, 1) / 4)
