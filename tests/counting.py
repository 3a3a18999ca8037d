"""A server of models in a thread of this process, which counts what it is asked."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def whole(messages: list[dict[str, str]]) -> str:
    """Tell requests apart by all that they say."""
    return json.dumps(messages)


class _Counting(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: Counter[str]
    lock: threading.Lock
    told_apart: Callable[[list[dict[str, str]]], str]
    answer: Callable[[str], str]
    status: int

    def do_GET(self) -> None:
        self._say(200, {"data": [{"id": "m", "owned_by": "vllm"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = type(self).told_apart(body["messages"])
        with self.lock:
            self.asked[text] += 1
        message = {"role": "assistant", "content": type(self).answer(text)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        read, written = (-(-len(one) // 4) for one in (json.dumps(body), message["content"]))
        usage = {"prompt_tokens": read, "completion_tokens": written}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        status = 400 if "wrong" in text else type(self).status
        self._say(status, {**answer, "choices": [choice], "usage": usage})

    def _say(self, status: int, answer: dict[str, Any]) -> None:
        raw = json.dumps(answer).encode()
        with suppress(ConnectionError):  # whoever asked was stopped
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(
    *,
    told_apart: Callable[[list[dict[str, str]]], str] = whole,
    answer: Callable[[str], str] = "Fine: {}".format,
    status: int = 200,
) -> Generator[tuple[str, Counter[str]]]:
    """Serve models; give the address, and how often each request was asked.

    Requests with "wrong" in them are refused; the others are answered with `status`.
    """
    asked: Counter[str] = Counter()
    functions = {"told_apart": staticmethod(told_apart), "answer": staticmethod(answer)}
    about = {"asked": asked, "lock": threading.Lock(), "status": status, **functions}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Counting,), about))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
