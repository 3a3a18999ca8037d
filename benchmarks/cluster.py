"""How fast rows go through a graph on Ray, beside `map`: `python benchmarks/cluster.py`.

The nodes of the cluster are processes of this machine, and the model is `mock_server.py`, which
answers after a second: so rows wait for the model and not for a core, and what is seen is what Ray
and `moa.rows.ray` themselves cost. Needs the extra `ray`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

from moa import Agent, OpenAIEndpoint
from moa.core.batch import map_rows
from moa.rows.ray import map_dataset
from overhead import Process
from report import table

LATENCY_S = 1.0
AT_ONCE = 8
"""Rows at once in a worker."""
BATCH = 40


def graph_at(url: str) -> Callable[[], Agent]:
    def build() -> Agent:
        model = f"mock-{LATENCY_S * 1000:.0f}"
        return Agent(OpenAIEndpoint("mock", model=model, base_url=url, api_key="none"), "Answer.")

    return build


async def mapped(build: Callable[[], Agent], rows: int) -> float:
    texts = [f"text {n}" for n in range(rows)]
    start = time.perf_counter()
    async with aclosing(map_rows(build(), texts, max_concurrency=AT_ONCE)) as items:
        answered = [item async for item in items if item.status == "answered"]
    assert len(answered) == rows
    return rows / (time.perf_counter() - start)


def on_nodes(build: Callable[[], Agent], rows: int, nodes: int) -> tuple[float, float]:
    """Give rows a second after the first batch of each worker, and the seconds until then."""
    import ray
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    for _ in range(nodes - 1):
        cluster.add_node(num_cpus=2)  # one of them to read rows
    cluster.wait_for_nodes()
    ray.init(cluster.address, log_to_driver=False, logging_level="error")
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        data = ray.data.from_items([{"id": n, "text": f"text {n}"} for n in range(rows)])
        start = time.perf_counter()
        made = map_dataset(data, build, workers=nodes, max_concurrency=AT_ONCE, batch_size=BATCH)
        came: list[float] = []
        for batch in made.rows.iter_batches(batch_size=None, batch_format="pyarrow"):
            came += [time.perf_counter()] * batch.num_rows
        assert len(came) == rows
        begun = nodes * BATCH  # the first batch of each worker waits for it to start
        return (rows - begun) / (came[-1] - came[begun - 1]), came[begun - 1] - start
    finally:
        ray.shutdown()
        cluster.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=480)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 3])
    args = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).parents[1] / "src"))
    server = Process(str(Path(__file__).with_name("mock_server.py")))
    build = graph_at(f"http://127.0.0.1:{server.read()}/v1")
    best = AT_ONCE / LATENCY_S
    alone = asyncio.run(mapped(build, args.rows))
    found = [["`map`", f"{alone:.0f}", f"{alone / best:.0%}", "-"]]
    for nodes in args.nodes:
        speed, first_s = on_nodes(build, args.rows, nodes)
        found.append(
            [
                f"{nodes} node{'s' * (nodes > 1)}",
                f"{speed:.0f}",
                f"{speed / best / nodes:.0%}",
                f"{first_s:.0f}",
            ]
        )
        print(found[-1], flush=True)
    server.close()
    head = ["", "rows/s", "of what the latency allows", "s until all workers had done a batch"]
    print(table(head, found))


if __name__ == "__main__":
    main()
