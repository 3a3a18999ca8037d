"""Writing a plan: its endpoint in `moa.toml`, and what is left to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moa.advisor.choice import Plan, choose
from moa.advisor.config import Setup, setup_of_plan
from moa.advisor.fit import LocalModel
from moa.advisor.hardware import Machine, list_placements
from moa.advisor.task import Task
from moa.config.catalogue import models
from moa.config.tables import AddressConfig, Config, EngineConfig, ServerConfig, endpoint_of

from .test_cases import DESK, EDGE, H100S, LAPTOP, computer


def plan_of(task: Task, machine: Machine, name: str) -> Plan:
    return next(plan for plan in choose(task, machine).plans if plan.model.name == name)


def made_of(plan: Plan, machine: Machine, config: Config | None = None) -> Setup:
    return setup_of_plan(plan, "new", machine=machine, config=config or Config())


def test_the_built_in_model_needs_no_endpoint() -> None:
    plan = plan_of(Task(job="classify", complexity="simple"), LAPTOP, "smollm2-135m")
    assert made_of(plan, LAPTOP) == Setup(
        notes=("smollm2-135m is built in, and needs no endpoint",)
    )


def test_another_model_on_the_processor_runs_in_this_machine() -> None:
    plan = plan_of(Task(job="summarise", complexity="simple"), EDGE, "qwen3-1.7b")
    made = made_of(plan, EDGE)
    assert endpoint_of(made.table).model == "qwen3-1.7b"
    assert made.steps[0] == "moa models fetch new"


def test_a_file_that_the_catalogue_does_not_know_is_put_there_by_its_user() -> None:
    machine = computer(64)
    known = models()["phi-2"]
    served = LocalModel(
        model=known, place=list_placements(machine)[0], quantisation="q4_k_m", tokens=650
    )
    made = made_of(Plan(task=Task(job="converse"), model=known, served=served), machine)
    assert f"GGUF file of {known.hub}" in made.steps[0]
    endpoint = endpoint_of(made.table)
    assert isinstance(endpoint, EngineConfig)
    assert endpoint.model.endswith(".gguf")


def test_a_model_made_to_decide_has_the_server_of_its_makers() -> None:
    made = made_of(plan_of(Task(job="classify"), LAPTOP, "laya"), LAPTOP)
    assert endpoint_of(made.table).urls == ("http://127.0.0.1:8080/v1",)
    assert made.steps[0].startswith("llama serve -hf ")


def test_a_vendors_model_is_written_as_it_is_sold_also_where_vllm_could_serve_it() -> None:
    machine = computer(1, cores=2)
    task = Task(job="summarise", complexity="simple", vendors=("mistral",))
    plan = plan_of(task, machine, "ministral-8b")
    assert "vllm" in plan.model.servers
    endpoint = endpoint_of(made_of(plan, machine).table)
    assert isinstance(endpoint, AddressConfig)
    assert endpoint.model == plan.model.vendor_model


def test_a_model_on_a_gpu_is_served_in_the_format_of_its_plan() -> None:
    plan = plan_of(Task(job="converse"), DESK, "qwen3-4b")
    assert plan.served is not None
    endpoint = endpoint_of(made_of(plan, DESK).table)
    assert isinstance(endpoint, ServerConfig)
    repository = plan.model.weights[plan.served.quantisation].repository
    assert endpoint.model == repository or endpoint.vllm.quantization == plan.served.quantisation


def test_what_is_written_beside_another_endpoint_leaves_it_the_default() -> None:
    # else the tier would have two, and nothing that asks for one would run any more
    task = Task(job="create", vendors=("openai",), complexity="complex")
    config = Config(endpoints={"gpt": endpoint_of({"tier": "llm", "model": "gpt-5"})})
    plan = plan_of(task, LAPTOP, "gpt-5.2")
    assert made_of(plan, LAPTOP, config).tiers == {"llm": "gpt"}


@pytest.mark.parametrize(("per_day", "servers"), [(100, 1), (10**8, 3)])
def test_as_many_servers_are_written_as_the_figures_take(per_day: int, servers: int) -> None:
    best = choose(Task(job="classify", per_day=per_day), H100S).plans[0]
    endpoint = endpoint_of(made_of(best, H100S).table)
    assert isinstance(endpoint, ServerConfig)
    assert endpoint.vllm.replicas * endpoint.vllm.gpus_each == servers


def test_no_more_servers_are_written_than_the_machine_has_room_for() -> None:
    best = choose(Task(job="classify", per_day=10**8), H100S).plans[0]
    one_gpu = replace(H100S, gpus=H100S.gpus[:1])
    endpoint = endpoint_of(made_of(best, one_gpu).table)
    assert isinstance(endpoint, ServerConfig)
    assert endpoint.vllm.replicas == 1
