"""Lines of runs, as `moa run --out` writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FAILED = {"settled": False, "error": "E: x"}
HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'>\u2028&"


def row(
    id: str,
    text: str,
    likely: Mapping[str, float],
    *,
    right: object = ...,
    queue: str = "sales",
    tier: str = "slm",
    cost: float | None = 0.0,
    accepted: bool | None = None,
    doubtful: bool = False,
    **further: Any,
) -> dict[str, Any]:
    """Write a row whose intent was decided."""
    label = max(likely, key=lambda name: likely[name])
    spent = {"calls": 1, "cost": cost, "seconds": 0.2, "input_tokens": 9, "output_tokens": 1}
    given: dict[str, Any] = {"text": text} | ({} if right is ... else {"intent": right})
    intent = {
        "status": "answered",
        "probabilities": dict(likely),
        "label": label,
        "accepted": accepted,
        "doubtful": doubtful,
    }
    node = "shop/intent"
    return {
        "id": id,
        "input": given,
        "output": {"queue": queue, "decisions": {"intent": intent}},
        "status": "answered",
        "settled": tier == "slm" and queue != "quarantine" and not doubtful,
        "seconds": 0.3,
        "usage": {**spent, "by_tier": {tier: spent}, "by_node": {node: spent}},
        "trace": [{"kind": "answered", "node": node, "text": "model", "endpoint": "small"}],
    } | further


def shop() -> list[dict[str, Any]]:
    """Give rows of which one is wrong and sure, one wrong and less sure, and others are not."""
    return [
        row("fine", "Where is my parcel?", {"delivery": 0.9, "refund": 0.1}, right="delivery"),
        row("unsure", "Hm.", {"delivery": 0.6, "refund": 0.4}, right="refund"),
        row("doubt", "It is broken?", {"delivery": 0.5, "refund": 0.5}, doubtful=True),
        row("sure", "Money back.", {"delivery": 0.97, "refund": 0.03}, right="refund"),
        row("spam", "WIN", {"delivery": 0.8, "refund": 0.2}, queue="quarantine"),
        row("large", "Please.", {"refund": 0.7, "delivery": 0.3}, tier="llm", cost=0.002),
        {"id": "bad", "input": {"text": "?"}, "output": None, "status": "failed"} | FAILED,
    ]


def written(path: Path, lines: Sequence[Mapping[str, Any]]) -> Path:
    """Write lines into a file."""
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    return path


def spans(id: str, prompt: str = "Which is it?") -> list[dict[str, Any]]:
    """Give the spans of a row, as `moa run --trace` writes them."""
    asked = json.dumps([{"role": "user", "parts": [{"type": "text", "content": prompt}]}])
    said = json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": "refund"}]}])
    call = {
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.input.messages": asked,
        "gen_ai.output.messages": said,
    }
    again: list[dict[str, Any]] = [{"name": "moa.retried", "time": 1.2, "attributes": {}}]

    def span(n: int, up: int | None, name: str, start: float, end: float, **more: Any) -> Any:
        attributes = more.pop("attributes", {})
        return {
            "trace": f"t-{id}",
            "span": f"s{n}",
            "parent": up and f"s{up}",
            "name": name,
            "kind": "internal",
            "start": start,
            "end": end,
            "attributes": attributes,
        } | more

    return [
        span(4, 3, "chat large", 1.1, 1.8, attributes=call, events=again),
        span(3, 2, "invoke_agent intent", 1.0, 1.9, attributes={"moa.node": "shop/intent"}),
        span(2, 1, "invoke_workflow shop", 1.0, 2.0, attributes={"moa.node": "shop"}),
        span(1, None, "run shop", 1.0, 2.0, attributes={"moa.row.id": id, "moa.kind": "run"}),
    ]
