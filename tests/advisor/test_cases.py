"""Choosing, case by case, as a table to be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

import pytest

from moa.advisor.choice import Plan, Ranking, choose
from moa.advisor.hardware import GPU, Machine
from moa.advisor.task import Task
from moa.advisor.words import Job, Prefer

GIB = 2**30


def computer(ram: int = 16, gpu: str | None = None, count: int = 1, *, cores: int = 8) -> Machine:
    """Describe a machine, three quarters of whose RAM are free."""
    gpus = (GPU.from_name(gpu),) * count if gpu else ()
    return Machine(cores=cores, ram=ram * GIB, ram_free=int(ram * 0.75 * GIB), gpus=gpus)


LAPTOP = computer(16)
DESK = computer(64, "RTX 4090", cores=16)
EDGE = computer(8, "Jetson Orin 8GB", cores=6)
L4 = computer(64, "L4", cores=16)
SMALL_BOARD = computer(2, cores=4)
H100S = computer(1000, "H100", 8, cores=64)

Check = Callable[[Ranking], bool]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A task on a machine, and what must hold of the ranking."""

    name: str
    task: Task
    machine: Machine
    best: tuple[str, ...] = ()
    """Patterns of which the best plan is one; empty: nothing fits."""
    sizes: tuple[float, float] = (0, 10_000)
    """Billions of parameters of the best plan's largest model, where they are known."""
    says: tuple[str, ...] = ()
    """Words in the best plan's reasons, or in the suggestions where nothing fits."""
    never: tuple[str, ...] = ()
    """Causes or patterns that must not come up in any plan."""
    rejected: tuple[str, ...] = ()
    """Causes for which something is rejected."""
    holds: Check = field(default=lambda ranking: True)
    hourly_usd: Decimal | None = None


def best(ranking: Ranking) -> Plan:
    assert ranking.best is not None
    return ranking.best


def at_home(ranking: Ranking) -> bool:
    return not any(plan.needs_network for plan in ranking.plans)


def _within(seconds: float) -> Check:
    """Whether every plan answers in time."""
    return lambda ranking: all((it.seconds or 0) <= seconds for it in ranking.plans)


CASES = (
    Case(
        name="a support bot on a laptop, with a key",
        task=Task(job="converse", latency_s=4, per_day=500, vendors=("openai",)),
        machine=LAPTOP,
        best=("llm", "hybrid", "slm"),
        says=("the items leave this machine",),
        holds=lambda r: best(r).needs_network and _within(4)(r),
    ),
    Case(
        name="the same without a key: says what would do",
        task=Task(job="converse", latency_s=4, per_day=500),
        machine=LAPTOP,
        says=("with a GPU such as", "if a vendor may be asked"),
        rejected=("too slow", "no vendor"),
    ),
    Case(
        name="recommendations on an 8 GB edge board",
        task=Task(job="recommend", per_day=20_000, complexity="simple", latency_s=1),
        machine=EDGE,
        best=("slm",),
        says=("Jetson Orin 8GB",),
        rejected=("too big",),
        holds=lambda r: at_home(r) and _within(1)(r),
    ),
    Case(
        name="10 million messages a day on one L4, to be sorted, with labels",
        task=Task(job="classify", per_day=10_000_000, input_tokens=60, labels=500),
        machine=L4,
        best=("slm",),
        sizes=(0.1, 1.3),
        holds=lambda r: best(r).good_enough,
        hourly_usd=Decimal("0.8"),
    ),
    Case(
        name="10 million replies a day on one L4: nothing fits",
        task=Task(job="converse", per_day=10_000_000),
        machine=L4,
        says=("if a vendor may be asked",),
        rejected=("too slow",),
    ),
    Case(
        name="data that may not leave this machine, on a desk",
        task=Task(job="extract", per_day=5000),
        machine=DESK,
        best=("slm", "llm"),
        sizes=(3, 40),
        rejected=("no vendor",),
        holds=lambda r: at_home(r) and best(r).good_enough,
    ),
    Case(
        name="German tickets on a processor, where two seconds do",
        task=Task(job="classify", languages=("de",), per_day=5_000, latency_s=2.5),
        machine=computer(16),
        best=("slm",),
        sizes=(0.5, 3),
        holds=lambda r: best(r).good_enough and _within(2.5)(r),
    ),
    Case(
        name="complex labels without examples take a large model",
        task=Task(job="classify", complexity="complex", vendors=("openai",)),
        machine=LAPTOP,
        best=("llm", "slm"),
        holds=lambda r: best(r).good_enough,
    ),
    Case(
        name="a long book is no task for a short context",
        task=Task(job="summarise", input_tokens=100_000, output_tokens=500),
        machine=computer(128, "A100", cores=16),
        best=("llm", "slm"),
        rejected=("too long",),
        holds=lambda r: (best(r).members[-1].model.context or 0) > 100_000,
    ),
    Case(
        name="a private writer on an Apple M4",
        task=Task(job="create"),
        machine=computer(16, "Apple M4", cores=10),
        best=("slm",),
        says=("Apple M4",),
    ),
    Case(
        name="a dollar limit that no vendor keeps",
        task=Task(
            job="create",
            complexity="complex",
            vendors=("openai",),
            max_usd_per_thousand=Decimal("0.05"),
            latency_s=60,
        ),
        machine=computer(8, cores=4),
        rejected=("too dear",),
        says=("if a thousand items may cost US$",),
    ),
    Case(
        name="a hired GPU for twenty essays a day is dear",
        task=Task(job="create", per_day=20, vendors=("openai",)),
        machine=computer(64, "A100", cores=16),
        best=("llm", "slm"),
        holds=lambda r: best(r).needs_network,
        hourly_usd=Decimal(2),
    ),
    Case(
        name="two models beside each other on one GPU",
        task=Task(job="converse", per_day=20_000),
        machine=computer(64, "L40S", cores=16),
        best=("llm", "slm", "hybrid"),
        holds=lambda r: any(plan.pattern == "hybrid" for plan in r.plans),
    ),
    Case(
        name="Finnish speech acts, which few small models were made for",
        task=Task(job="classify", languages=("fi",), per_day=1000),
        machine=computer(32, "L4"),
        best=("slm", "llm"),
        holds=lambda r: (
            best(r).members[0].model.languages in (("100+",), ("140+",), ("201+",))
            or "fi" in best(r).members[0].model.languages
        ),
    ),
    Case(
        name="no model is taken whose makers name other languages only",
        task=Task(job="classify", languages=("fi",), prefer="depth"),
        machine=L4,
        best=("slm", "llm"),
        rejected=("other language",),
        holds=lambda r: (
            not {"mistral-7b", "phi-4"} & {it.model.name for plan in r.plans for it in plan.members}
        ),
    ),
    Case(
        name="no model is taken that goes wrong in the numbers of an old card",
        task=Task(job="create"),
        machine=computer(2, "T4", cores=2),
        best=("slm", "llm"),
        holds=lambda r: not any(it.model.no_float16 for plan in r.plans for it in plan.members),
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
        best=("slm",),
        says=("the processor (8 cores)",),
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
        best=("slm", "llm"),
        says=("isn't known to moa",),
        holds=lambda r: best(r).seconds is None,
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_ranking_of_a_case_is_what_an_engineer_would_say(case: Case) -> None:
    ranking = choose(case.task, case.machine, hourly_usd=case.hourly_usd)
    told = "\n".join(map(str, (ranking, *ranking.rejected)))
    if not case.best:
        assert not ranking.plans, told
        words = "\n".join(ranking.suggestions)
        assert words, "nothing fits, and nothing is said of what would"
    else:
        best = ranking.best
        assert best is not None, told
        assert best.pattern in case.best, told
        words = "\n".join(best.reasons)
        sizes = [m.model.parameters / 1e9 for m in best.members if m.model.parameters]
        assert not sizes or case.sizes[0] <= max(sizes) <= case.sizes[1], told
    for word in case.says:
        assert word in words, words
    assert not {plan.pattern for plan in ranking.plans} & set(case.never), told
    assert set(case.rejected) <= {one.cause for one in ranking.rejected}, told
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
    assert speed.good_enough


def test_a_more_complex_task_takes_a_better_model() -> None:
    found = [
        best(choose(Task(job="converse", complexity=one), DESK)).quality
        for one in ("simple", "moderate", "complex")
    ]
    assert found == sorted(found)
    assert found[0] < found[-1]
