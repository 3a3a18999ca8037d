"""Words of the catalogue that the advisor and the command line share. It imports nothing heavy."""

from __future__ import annotations

from typing import Literal

Kind = Literal["open", "api", "decision"]
"""Open weights; a vendor's model; a model made to decide, open or a vendor's."""
Skill = Literal[
    "classify", "extract", "summarise", "converse", "reason", "create", "code", "embed", "decide"
]
"""The skills of a model."""
Job = Literal[
    "classify",
    "extract",
    "summarise",
    "converse",
    "reason",
    "create",
    "recommend",
    "answer-from-documents",
]
"""The work on an item. `recommend`: score given candidates for a person."""
Complexity = Literal["simple", "moderate", "complex"]
"""Complexity of a task, which determines the needed quality: 2, 3 or 4 of 5."""
Prefer = Literal["speed", "balance", "depth"]
"""The criterion among models that are good enough: the shortest time, the best of time and price
together, or the highest quality."""
Quantisation = Literal["bf16", "fp8", "int8", "int4", "q8_0", "q4_k_m"]
"""Format of weights: `int4` is AWQ, GPTQ or W4A16; `q8_0` and `q4_k_m` are GGUF's."""
Server = Literal["vllm", "llama.cpp", "sglang", "ollama", "vendor", "own"]
"""Servers of a model; `own`: a server that its makers publish with it."""
