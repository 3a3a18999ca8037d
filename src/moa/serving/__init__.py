"""Serving: graphs and agents over HTTP, by the APIs that clients know.

The modules:

- `served.py`: a node under its name, its schemas, JSON in and out.
- `server.py`: `Server`, which all routes share, and `Settings`.
- `app.py`: `serve`, which makes the Starlette application.
- `http.py`: checks on every request, before any route sees it.
- `keys.py`: callers, and what each may run and spend.
- `metrics.py`: metrics for Prometheus.
- `jobs.py`: rows processed in the background.
- `runs.py`: one request is one run: bounded, cancelled when its client goes away, kept for a while.
- `faults.py`: the HTTP status of each error, in OpenAI's format.
- One module for each protocol: `typed.py` (`/run`, `/jobs`, `/schema` …), `chat_completions.py`,
  `systemone.py`, `mcp.py`. Each has `routes(server) -> list[Route]`, which `app.py` calls, and may
  have `paths(server, caller, schemas) -> dict[str, object]`, its part of the OpenAPI
  document that `openapi.py` makes.
"""

from importlib import import_module

from moa.core.errors import require_package

with require_package("starlette", extra="serve", purpose="to serve"):
    for _name in ("prometheus_client", "starlette", "uvicorn"):
        import_module(_name)
