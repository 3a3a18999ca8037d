"""Engine server: llama.cpp's own server, as a program.

It reads its settings as one line of JSON from stdin, and writes one line to stdout: its address, a
missing library, or why llama.cpp refuses. It ends with stdin: when its parent closes it, or is
gone. It imports nothing of `moa`, so that it starts quickly and stays small.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from importlib import import_module
from typing import Protocol, TypedDict

_PROMPT_CACHE_MIB = 256


def main() -> None:
    """Serve until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program that started it
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what llama.cpp prints is no address
    settings = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        server = _serve(settings)  # it serves as long as it is referred to
        reply = {"address": server.listening_address}
    except ImportError as error:
        reply = {"missing": str(error)}
    except RuntimeError as error:
        reply = {"refused": str(error)}
    answer.write(json.dumps(reply) + "\n")
    answer.flush()
    threading.Event().wait()


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


class _Settings(TypedDict):
    path: str
    model: str
    api_key: str
    batch: int
    context_window: int
    slots: int
    threads: int
    pooling: str


class _Server(Protocol):
    listening_address: str


def _serve(settings: _Settings) -> _Server:
    xllamacpp = import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = settings["path"]
    params.model_alias = {settings["model"]}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [settings["api_key"]]
    params.cors_origins = ""
    params.cors_credentials = False
    params.ui = False
    params.endpoint_slots = False
    params.n_ctx = settings["context_window"] * settings["slots"]
    params.n_parallel = settings["slots"]
    params.cpuparams.n_threads = settings["threads"]
    params.cpuparams_batch.n_threads = settings["threads"]
    params.n_batch = params.n_ubatch = settings["batch"]
    params.cache_ram_mib = _PROMPT_CACHE_MIB
    params.embedding = True  # completions are served all the same
    pooling = f"LLAMA_POOLING_TYPE_{settings['pooling'].upper()}"
    params.pooling_type = getattr(xllamacpp.llama_pooling_type, pooling)
    params.verbosity = 1
    return xllamacpp.Server(params)


if __name__ == "__main__":
    main()
