"""An MCP server of the protocol of 2025 over stdio, without the SDK: `python mcp_raw.py MANNER`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

MANNER = sys.argv[1]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def write(id: Any, **answer: Any) -> None:
    say(json.dumps({"jsonrpc": "2.0", "id": id, **answer}))


def call(id: Any) -> None:
    if MANNER == "dies":
        os._exit(4)
    if MANNER == "structured":
        write(id, result={"content": [], "structuredContent": {"sum": 3}})
    elif MANNER == "huge answer":
        write(id, result={"content": [{"type": "text", "text": "x" * 10_000_000}]})
    elif MANNER == "huge answer, its number last":
        result = {"content": [{"type": "text", "text": '"id":7}' * 1_000_000}]}
        say(json.dumps({"result": result, "jsonrpc": "2.0", "id": id}))
    elif MANNER == "leaves a child":
        subprocess.Popen(["sleep", "600"])
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        write(id, result={"content": []})
        time.sleep(600)
    else:
        write(id, result={"content": [{"type": "text", "text": "3"}]})


def answer(message: dict[str, Any]) -> None:
    id, method = message.get("id"), message["method"]
    if method == "initialize":
        capabilities: dict[str, Any] = {"tools": {}}
        about = {"name": "raw", "version": "1"}
        version = "2025-06-18"
        result = {"protocolVersion": version, "capabilities": capabilities, "serverInfo": about}
        write(id, result=result)
    elif method == "tools/list":
        size = 10_000_000 if MANNER == "huge list" else 10
        tool = {"name": "add", "description": "Add." + "." * size, "inputSchema": SCHEMA}
        if MANNER == "dotted":
            tool = {"name": "sums.add", "inputSchema": SCHEMA}
        many = [tool] * 12 if MANNER == "long list" else [tool]
        write(id, result={"tools": many})
    elif method == "tools/call":
        assert MANNER != "dotted" or message["params"]["name"] == "sums.add"
        call(id)
    elif id is not None:
        write(id, error={"code": -32601, "message": "no such method"})


if MANNER == "greets":
    say("Welcome to the server of sums!")
elif MANNER == "garbage":
    for line in range(1000):
        say(f"<p>line {line}</p>\x1b]0;owned\x07")
elif MANNER == "closes":
    sys.stderr.write("\x1b]52;c;b3duZWQ=\x07no database\n")
    sys.exit(3)
elif MANNER == "endless":
    while True:
        sys.stdout.write("x" * 65536)
elif MANNER == "silent":
    time.sleep(600)
for line in sys.stdin:
    answer(json.loads(line))
