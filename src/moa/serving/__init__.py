"""Serving: graphs and agents over HTTP, as any client knows it.

Who looks for something finds it here:

- `served.py`: a node under its name, its schemas, JSON in and out.
- `server.py`: `Server`, what all routes share, and `Settings`; `app.py`: `serve`, which makes the
  Starlette application of it.
- `http.py`: what is asked of every request, before any route sees it.
- `keys.py`: who asks, and what it may spend.
- `metrics.py`, `jobs.py`: what Prometheus reads; rows that are worked on beside requests.
- `runs.py`: one request is one run: bounded, cancelled when its client goes away, kept for a while.
- `faults.py`: which error is which status, in OpenAI's shape.
- One module for each protocol: `typed.py` (`/run`, `/jobs`, `/schema` …), `chat_completions.py`,
  `systemone.py`, `mcp.py`. Each has `routes(server) -> list[Route]`, which `app.py` calls, and may
  have `paths(server, caller, schemas) -> dict[str, object]`, its part of the document that
  `openapi.py` puts together.
"""

from importlib import import_module

from moa.errors import require_package

with require_package("starlette", extra="serve", purpose="to serve"):
    for _name in ("prometheus_client", "sse_starlette", "starlette", "uvicorn"):
        import_module(_name)
