"""Causes: tells from what vLLM said last why it ended, and what to do about it.

The messages are those of vLLM 0.32, transformers 5 and huggingface_hub 1, read in their source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_PREFIX = re.compile(r"^(\(\w[\w -]*pid=\d+\) )?(ERROR|WARNING|INFO|DEBUG) [\d-]+ [\d:]+ \[\S+\] ?")
_FAULT = re.compile(r"^(?!.*(Engine core init|EngineDeadError))[\w.]*(Error|Exception): .+")
_ENGINE_DIED = re.compile(r"EngineDeadError|Engine core proc \S+ died")
_LAST_LINES = 3
_LONGEST = 300


class Served(NamedTuple):
    """What a cause may name."""

    name: str
    model: str
    port: int


@dataclass(frozen=True, slots=True)
class _Known:
    """A message of vLLM's, and what is said in its place."""

    pattern: re.Pattern[str]
    say: Callable[[Served, re.Match[str]], str]


def _known(pattern: str, say: Callable[[Served, re.Match[str]], str]) -> _Known:
    return _Known(re.compile(pattern, re.IGNORECASE), say)


def explain(lines: Sequence[str], *, served: Served, code: int) -> str:
    """Say in a sentence or two why a server ended, and what to do.

    Args:
        lines: The last lines of its log.
        served: Which server it was.
        code: Its exit code, negative where a signal ended it.
    """
    text = "\n".join(_PREFIX.sub("", line) for line in lines)
    for known in _KNOWN:
        if found := known.pattern.search(text):
            return known.say(served, found)
    return _unknown(lines, code)


def port_taken(served: Served) -> str:
    """Say that another program listens where the server is to."""
    return (
        f"port {served.port} is taken by another program. Stop that one, or set another: "
        f"[endpoints.{served.name}.vllm] port = {served.port + 1}"
    )


def _unknown(lines: Sequence[str], code: int) -> str:
    if code == -9:
        how = "it was killed (SIGKILL), which is what the system does when memory runs out"
    elif code < 0:
        how = f"it was ended by signal {-code}"
    else:
        how = f"it ended with exit code {code}"
    said = [stripped for line in lines if (stripped := _PREFIX.sub("", line).strip())]
    faults = [line for line in said if _FAULT.match(line)]
    if code >= 0 and not faults and any(map(_ENGINE_DIED.search, said)):
        return (
            "its engine, a process of vLLM's, died without a word: it was killed, which is what "
            "the system does when memory runs out"
        )
    last = " / ".join(line[:_LONGEST] for line in (faults[-1:] or said[-_LAST_LINES:]))
    return f"{how}. Its last words: {last}" if last else f"{how}, without a word"


def _table(served: Served) -> str:
    return f"[endpoints.{served.name}.vllm]"


def _too_long(served: Served, found: re.Match[str]) -> str:
    wanted, needed, there, largest = found.groups()
    size = f"max_model_len = {largest}" if largest else "a smaller max_model_len"
    return (
        f"the KV cache of one request of {wanted} tokens takes {needed} GiB, and {there} GiB are "
        f"left for it. Set {size} in {_table(served)}, or give it more memory"
    )


_KNOWN = (
    _known(
        r"No space left on device|Errno 28|Not enough free disk space",
        lambda s, _: (
            f"the disk is full, so {s.model} could not be fetched or loaded. Free some space, or "
            "set HF_HOME to a folder on a disk that has it"
        ),
    ),
    _known(
        r"max seq len\s+\((\d+)\), \(?([\d.]+) GiB KV\s+cache is needed, which is larger than the "
        r"available KV cache\s+memory \(([\d.]+) GiB\)\.(?:[^\n]*?estimated maximum model length "
        r"is (\d+))?",
        _too_long,
    ),
    _known(
        r"max_model_len \((\d+)\) is greater than the derived max_model_len \((?:\w+=)?(\d+)",
        lambda s, m: (
            f"max_model_len = {m[1]} is more than {s.model} was made for, which is {m[2]} tokens. "
            f"Set at most that in {_table(s)}"
        ),
    ),
    _known(
        r"Free memory on device \S+ \(([\d.]+)/([\d.]+) GiB\) on startup is less than [^\n(]*"
        r"\(([\d.]+), ([\d.]+) GiB\)",
        lambda s, m: (
            f"of the {m[2]} GiB of this GPU {m[1]} GiB are free, and {s.name} asks for {m[4]} GiB "
            f"(gpu_memory_utilization = {m[3]}). Stop what else uses it (nvidia-smi), or set less "
            f"in {_table(s)}"
        ),
    ),
    _known(
        r"No available memory for the cache blocks",
        lambda s, _: (
            f"the weights of {s.model} leave no memory for its KV cache. Set a larger "
            f"gpu_memory_utilization in {_table(s)}, or take a smaller or a quantised model"
        ),
    ),
    _known(
        r"OutOfMemoryError: |CUDA out of memory|HIP out of memory",
        lambda s, _: (
            f"there is not enough GPU memory for {s.model}. Stop what else uses the GPU "
            f"(nvidia-smi), set a smaller max_model_len or max_num_seqs in {_table(s)}, or take a "
            "smaller or a quantised model"
        ),
    ),
    _known(
        r"Available memory on node \d+ \(([\d.]+)/[\d.]+ GiB\) [^\n]*?requested [^\n]*?"
        r"\(([\d.]+) GiB\)",
        lambda s, m: (
            f"the KV cache is to take {m[2]} GiB of RAM, and {m[1]} GiB are free. Set a smaller "
            f'one: {_table(s)} env = {{ VLLM_CPU_KVCACHE_SPACE = "1" }} (in GiB)'
        ),
    ),
    _known(
        r"Available memory on node \d+ \(([\d.]+)/[\d.]+ GiB\) on startup is less than[^\n]*",
        lambda s, m: (
            f"{m[1]} GiB of RAM are free, which is less than vLLM sets aside for {s.model}. Set a "
            f"smaller gpu_memory_utilization in {_table(s)}: without a GPU it is a share of RAM"
        ),
    ),
    _known(
        r"address already in use|Errno 98|Errno 48",
        lambda s, _: port_taken(s),
    ),
    _known(
        r"GatedRepoError|gated repo|is a gated repository|awaiting a review",
        lambda s, _: (
            f"{s.model} has a licence that has to be accepted. Accept it on "
            f"https://huggingface.co/{s.model}, make a token there, and run: export HF_TOKEN=…"
        ),
    ),
    _known(
        r"RepositoryNotFoundError|Repository Not Found|is not a valid model identifier",
        lambda s, _: (
            f"the hub has no model {s.model!r}, or it is private. Correct the name, or set "
            "$HF_TOKEN to a token that may read it"
        ),
    ),
    _known(
        r"HFValidationError|Invalid repository ID or local directory|no file named config.json"
        r"|does not appear to have a file named config\.json",
        lambda s, _: (
            f"the model {s.model!r} is neither a folder with a config.json nor a name on the hub. "
            "Correct it in moa.toml"
        ),
    ),
    _known(
        r"LocalEntryNotFoundError|couldn't connect to 'https://huggingface|OfflineModeIsEnabled"
        r"|Max retries exceeded with url|Name or service not known|ConnectError: ",
        lambda s, _: (
            f"{s.model} is not on this machine, and the hub can't be reached. Get it on a machine "
            "that can (hf download), and give its folder as the model; or correct the network, "
            "such as $HTTPS_PROXY or $HF_ENDPOINT"
        ),
    ),
    _known(
        r"quantization method (\S+) is not supported for the current GPU. Minimum capability: "
        r"(\d+)\. Current capability: (\d+)",
        lambda s, m: (
            f"the quantisation {m[1]} of {s.model} needs a GPU of compute capability {m[2]}, and "
            f"this one has {m[3]}. Take a model with another quantisation (awq or gptq run on "
            "older cards), or one without"
        ),
    ),
    _known(
        r"(\S+) quantization is currently not supported in (\w+)"
        r"|_C::\S*(fp8|int8|awq|gptq|marlin)\S*\(\) expected at most 0",
        lambda s, m: (
            f"the quantisation {m[1] or m[3]} of {s.model} does not run on this "
            f"{m[2] or 'processor'}. Take a model with another quantisation, or one without"
        ),
    ),
    _known(
        r"Unknown quantization method: (\S+?)\. Must be one of \[([^\]]*)\]",
        lambda s, m: (
            f"vLLM knows no quantisation {m[1]!r}. Known: {m[2]}. Correct it in {_table(s)}, or "
            "leave it out: vLLM reads it from the model's files"
        ),
    ),
    _known(
        r"Cannot find the config file for (\S+)|specified in the model config \((\S+)\) does not "
        r"match",
        lambda s, m: (
            f"the files of {s.model} are "
            + (f"quantised by {m[2]}" if m[2] else f"not quantised by {m[1]}")
            + f", and {_table(s)} says otherwise. Leave quantization out: vLLM reads it from the "
            "model's files"
        ),
    ),
    _known(
        r"(?:torch\.)?(\w+) is not supported for quantization method (\w+)\. Supported dtypes: "
        r"\[([^\]]*)\]",
        lambda s, m: (
            f"the quantisation {m[2]} does not run with dtype {m[1]}, but with {m[3]}. Set dtype "
            f"in {_table(s)}"
        ),
    ),
    _known(
        r"Bfloat16 is only supported on GPUs with compute capability",
        lambda s, _: f'this GPU has no bfloat16. Set dtype = "float16" in {_table(s)}',
    ),
    _known(
        r"LoRA rank (\d+) is greater than max_lora_rank",
        lambda s, m: (
            f"a LoRA adapter has the rank {m[1]}. Set it: {_table(s)} "
            f'args = ["--max-lora-rank", "{m[1]}"]'
        ),
    ),
    _known(
        r"Model architectures (\[[^\]]*\]) are not supported",
        lambda s, m: (
            f"this vLLM does not know the architecture {m[1]} of {s.model}. Update vLLM, or take "
            "another model"
        ),
    ),
    _known(
        r"(?:option|argument) `trust_remote_code=True`",
        lambda s, _: (
            f"{s.model} brings code of its own, which vLLM would run. If you trust it: "
            f'{_table(s)} args = ["--trust-remote-code"]'
        ),
    ),
    _known(
        r"error: unrecognized arguments: ([^\n]*)",
        lambda s, m: f"vLLM knows no argument {m[1].strip()}. Correct args in {_table(s)}",
    ),
    _known(
        r"error: argument ([^\n]*)",
        lambda s, m: f"vLLM refuses an argument: {m[1].strip()}. Correct it in {_table(s)}",
    ),
    _known(
        r"No module named '?vllm'?\b(?!\.)",
        lambda s, _: "vLLM is not installed in the Python that was to run it. Run: moa doctor",
    ),
    _known(
        r"Failed to infer device type|No CUDA GPUs are available|no NVIDIA driver",
        lambda s, _: (
            "vLLM finds no GPU that it can use. Is the driver there (nvidia-smi)? Without a GPU "
            "it takes vllm-cpu: moa doctor says how to install it"
        ),
    ),
)
