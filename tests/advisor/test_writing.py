"""Writing plans: what of them goes into `moa.toml`, and what is left to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from moa.advisor.catalogue import models
from moa.advisor.choice import Pattern, Plan, choose
from moa.advisor.config import Setup, write_plan
from moa.advisor.fit import SPARE, LocalModel
from moa.advisor.hardware import Machine, Placement, list_placements
from moa.advisor.task import Task
from moa.config import load
from moa.config.tables import EngineConfig
from moa.core.errors import ConfigError

from .test_cases import DESK, EDGE, H100S, LAPTOP, SMALL_BOARD, computer

TALK = Task(job="converse")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plan_of(task: Task, machine: Machine, pattern: Pattern) -> Plan:
    return next(plan for plan in choose(task, machine).plans if plan.pattern == pattern)


def pair(machine: Machine, place: Placement) -> Plan:
    """Two models of one place, of which the large one has what the small one leaves."""
    small = LocalModel(
        model=models()["qwen3-1.7b"],
        place=place,
        quantisation="fp8" if place.gpu else "q4_k_m",
        tokens=650,
    )
    large = replace(
        small,
        model=models()["qwen3-8b"],
        quantisation="fp8" if place.gpu else "q8_0",  # of which the catalogue knows no file
        taken=int(small.total_bytes * SPARE),
    )
    return Plan(task=TALK, pattern="hybrid", members=(small, large), quality=3.0)


def test_the_built_in_model_needs_no_endpoint() -> None:
    plan = plan_of(Task(job="classify", complexity="simple"), LAPTOP, "slm")
    _, made = write_plan(plan, LAPTOP)
    assert made == {"small": Setup(notes=("smollm2-135m is built in, and needs no endpoint",))}
    assert not Path("moa.toml").exists()


def test_another_model_on_the_processor_runs_in_this_machine() -> None:
    summaries = Task(job="summarise", complexity="simple", per_day=2000)
    _, made = write_plan(plan_of(summaries, EDGE, "slm"), EDGE)
    assert load().embeds("small")
    assert made["small"].steps[0] == "moa models fetch small"


def test_a_model_made_to_decide_has_the_server_of_its_makers() -> None:
    _, made = write_plan(plan_of(Task(job="classify"), SMALL_BOARD, "slm"), SMALL_BOARD)
    assert load().endpoints["small"].urls == ("http://127.0.0.1:8080/v1",)
    assert made["small"].steps[0].startswith("llama serve -hf ")


def test_a_vendors_model_is_written_as_it_is_sold_also_where_vllm_could_serve_it() -> None:
    task = Task(job="summarise", complexity="simple", prefer="speed", vendors=("mistral",))
    machine = computer(1, cores=2)
    small = next(it for it in choose(task, machine).plans if "ministral-8b (API)" in str(it))
    assert "vllm" in small.members[0].model.servers
    write_plan(small, machine)
    assert load().endpoints["small"].model == small.members[0].model.vendor_model
    assert not load().served_endpoints


def test_both_models_of_a_hybrid_are_served_on_one_gpu() -> None:
    plan = pair(DESK, list_placements(DESK)[-1])
    write_plan(plan, DESK)
    served = load().served_endpoints
    assert {name: it.tier for name, it in served.items()} == {"small": "slm", "large": "llm"}
    shares = [it.vllm.gpu_memory_utilization or 1 for it in served.values()]
    assert sum(shares) <= 0.92
    assert len({it.vllm.port for it in served.values()}) == 2
    for member, it in zip(plan.members, served.values(), strict=True):
        assert isinstance(member, LocalModel)
        repository = member.model.weights[member.quantisation].repository
        assert it.model == repository or it.vllm.quantization == member.quantisation


def test_a_file_that_the_catalogue_does_not_know_is_put_there_by_its_user() -> None:
    machine = computer(64, cores=16)
    _, made = write_plan(pair(machine, list_placements(machine)[0]), machine)
    assert "GGUF file of Qwen/" in made["large"].steps[0]
    large = load().endpoints["large"]
    assert isinstance(large, EngineConfig)
    assert large.model.endswith(".gguf")


def test_what_is_written_beside_another_endpoint_leaves_it_the_default() -> None:
    # else the tier would have two, and nothing that asks for one would run any more
    machine = computer(64, cores=16)
    text = '[endpoints.gpt]\ntier = "llm"\nmodel = "gpt-5"\n'
    Path("moa.toml").write_text(text)
    _, made = write_plan(pair(machine, list_placements(machine)[0]), machine)
    assert load().default_of("llm") == "gpt"
    assert any("[endpoints.gpt] stays the default" in line for line in made["large"].notes)
    Path("moa.toml").write_text(text)
    sold = Task(job="create", vendors=("openai",), complexity="complex")
    write_plan(plan_of(sold, LAPTOP, "llm"), LAPTOP)
    assert load().default_of("llm") == "gpt"


def test_of_a_plan_all_endpoints_are_written_or_none() -> None:
    text = '# mine\n[endpoints.large]\ntier = "llm"\nmodel = "gpt-5"\n'
    Path("moa.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"\[endpoints\.large\] already.*--overwrite replaces"):
        write_plan(pair(DESK, list_placements(DESK)[-1]), DESK)
    assert Path("moa.toml").read_text() == text
    write_plan(pair(DESK, list_placements(DESK)[-1]), DESK, overwrite=True)
    assert Path("moa.toml").read_text().startswith("# mine\n")
    assert set(load().served_endpoints) == {"small", "large"}


@pytest.mark.parametrize(("per_day", "servers"), [(100, 1), (10**8, 3)])
def test_as_many_servers_are_written_as_the_figures_take(per_day: int, servers: int) -> None:
    task = Task(job="classify", per_day=per_day)
    best = choose(task, H100S).best
    assert best is not None
    write_plan(best, H100S)
    (served,) = load().served_endpoints.values()
    assert served.vllm.replicas * served.vllm.gpus_each == servers
