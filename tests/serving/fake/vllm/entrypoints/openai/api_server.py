"""A stand-in for vLLM's server: a real process, which does what the folder $FAKE_FOLDER says.

`plan.json` is a list, an object for each start; the last one holds for all further starts:
`log` is written at first, `exit` ends it before it serves, `after` is a file that has to be there
before it serves, `hang` makes it deaf to SIGTERM. Each start notes its process, and that of the
engine that it starts, in `pids`, and what it was started with in `started.json`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER = Path(os.environ["FAKE_FOLDER"])
METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
# TYPE vllm:prefix_cache_queries_total counter
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 400.0
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 100.0
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="m"} 400.0
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="m"} 7.0
"""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        key = os.environ["VLLM_API_KEY"]
        if self.path == "/metrics":
            self.answer(200, METRICS)
        elif not self.path.startswith("/v1"):
            self.answer(200, "")
        elif self.headers.get("Authorization") != f"Bearer {key}":
            self.answer(401, '{"error": "Unauthorized"}')
        else:
            name = sys.argv[sys.argv.index("--served-model-name") + 1]
            self.answer(200, json.dumps({"data": [{"id": name, "owned_by": "vllm"}]}))

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        print("INFO:", format % args, flush=True)


def main() -> None:
    plans = json.loads((FOLDER / "plan.json").read_text())
    with (FOLDER / "starts").open("a") as starts:
        starts.write("x")
    number = (FOLDER / "starts").stat().st_size
    plan = plans[min(number, len(plans)) - 1]
    if plan.get("hang"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    engine = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    )
    with (FOLDER / "pids").open("a") as pids:
        pids.write(f"{os.getpid()} {engine.pid}\n")
    told = {"argv": sys.argv, "env": dict(os.environ)}
    (FOLDER / "started.json").write_text(json.dumps(told))
    print(plan.get("log", "Loading the model"), flush=True)
    if "exit" in plan:
        os._exit(plan["exit"])
    while "after" in plan and not Path(plan["after"]).exists():
        time.sleep(0.02)
    port = int(sys.argv[sys.argv.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
