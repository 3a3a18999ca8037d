"""Causes: tells from what vLLM said last why it ended, and what to do about it.

The messages are those of vLLM 0.32, transformers 5 and huggingface_hub 1, read in their source.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from moa.vllm.command import ServerSpec

_PREFIX = re.compile(r"^(\(\w[\w -]*pid=\d+\) )?(ERROR|WARNING|INFO|DEBUG) [\d-]+ [\d:]+ \[\S+\] ?")
_FAULT = re.compile(r"^(?!.*(Engine core init|EngineDeadError))[\w.]*(Error|Exception): .+")
_ENGINE_DIED = re.compile(r"EngineDeadError|Engine core proc \S+ died")
_LAST_LINES = 3
_LONGEST = 300

_PORT_TAKEN = (
    "port {port} is taken by another program. Stop that one, or set another: {table} port = "
    "{next_port}"
)
_CACHE_NEEDED = (
    r"max seq len\s+\((\d+)\), \(?([\d.]+) GiB KV\s+cache is needed, which is larger than the "
    r"available KV cache\s+memory \(([\d.]+) GiB\)\."
)
_NO_ROOM = (
    "the KV cache of one request of {m[1]} tokens takes {m[2]} GiB, and {m[3]} GiB are left for "
    "it. Set %s in {table}, or give it more memory"
)
_OTHERWISE = (
    "and {table} says otherwise. Leave quantization out: vLLM reads it from the model's files"
)
_WITHOUT_IT = "Take a model with another quantisation, or one without"

_KNOWN = {
    r"No space left on device|Errno 28|Not enough free disk space": (
        "the disk is full, so {model} could not be fetched or loaded. Free some space, or set "
        "HF_HOME to a folder on a disk that has it"
    ),
    _CACHE_NEEDED + r"[^\n]*?estimated maximum model length is (\d+)": _NO_ROOM
    % "max_model_len = {m[4]}",
    _CACHE_NEEDED: _NO_ROOM % "a smaller max_model_len",
    r"max_model_len \((\d+)\) is greater than the derived max_model_len \((?:\w+=)?(\d+)": (
        "max_model_len = {m[1]} is more than {model} was made for, which is {m[2]} tokens. Set at "
        "most that in {table}"
    ),
    r"Free memory on device \S+ \(([\d.]+)/([\d.]+) GiB\) on startup is less than [^\n(]*"
    r"\(([\d.]+), ([\d.]+) GiB\)": (
        "of the {m[2]} GiB of this GPU {m[1]} GiB are free, and {name} asks for {m[4]} GiB "
        "(gpu_memory_utilization = {m[3]}). Stop what else uses it (nvidia-smi), or set less in "
        "{table}"
    ),
    r"No available memory for the cache blocks": (
        "the weights of {model} leave no memory for its KV cache. Set a larger "
        "gpu_memory_utilization in {table}, or take a smaller or a quantised model"
    ),
    r"OutOfMemoryError: |CUDA out of memory|HIP out of memory": (
        "there is not enough GPU memory for {model}. Stop what else uses the GPU (nvidia-smi), set "
        "a smaller max_model_len or max_num_seqs in {table}, or take a smaller or a quantised model"
    ),
    r"Available memory on node \d+ \(([\d.]+)/[\d.]+ GiB\) [^\n]*?requested [^\n]*?"
    r"\(([\d.]+) GiB\)": (
        "the KV cache is to take {m[2]} GiB of RAM, and {m[1]} GiB are free. Set a smaller one: "
        '{table} env = {{ VLLM_CPU_KVCACHE_SPACE = "1" }} (in GiB)'
    ),
    r"Available memory on node \d+ \(([\d.]+)/[\d.]+ GiB\) on startup is less than[^\n]*": (
        "{m[1]} GiB of RAM are free, which is less than vLLM sets aside for {model}. Set a smaller "
        "gpu_memory_utilization in {table}: without a GPU it is a share of RAM"
    ),
    r"address already in use|Errno 98|Errno 48": _PORT_TAKEN,
    r"GatedRepoError|gated repo|is a gated repository|awaiting a review": (
        "{model} has a licence that has to be accepted. Accept it on "
        "https://huggingface.co/{model}, make a token there, and run: export HF_TOKEN=…"
    ),
    r"RepositoryNotFoundError|Repository Not Found|is not a valid model identifier": (
        "the hub has no model {model!r}, or it is private. Correct the name, or set $HF_TOKEN to a "
        "token that may read it"
    ),
    r"HFValidationError|Invalid repository ID or local directory|no file named config.json"
    r"|does not appear to have a file named config\.json": (
        "the model {model!r} is neither a folder with a config.json nor a name on the hub. Correct "
        "it in moa.toml"
    ),
    r"LocalEntryNotFoundError|couldn't connect to 'https://huggingface|OfflineModeIsEnabled"
    r"|Max retries exceeded with url|Name or service not known|ConnectError: ": (
        "{model} is not on this machine, and the hub can't be reached. Get it on a machine that "
        "can (hf download), and give its folder as the model; or correct the network, such as "
        "$HTTPS_PROXY or $HF_ENDPOINT"
    ),
    r"quantization method (\S+) is not supported for the current GPU. Minimum capability: (\d+)\. "
    r"Current capability: (\d+)": (
        "the quantisation {m[1]} of {model} needs a GPU of compute capability {m[2]}, and this one "
        "has {m[3]}. Take a model with another quantisation (awq or gptq run on older cards), or "
        "one without"
    ),
    r"(\S+) quantization is currently not supported in (\w+)": (
        "the quantisation {m[1]} of {model} does not run on this {m[2]}. " + _WITHOUT_IT
    ),
    r"_C::\S*(fp8|int8|awq|gptq|marlin)\S*\(\) expected at most 0": (
        "the quantisation {m[1]} of {model} does not run on this processor. " + _WITHOUT_IT
    ),
    r"Unknown quantization method: (\S+?)\. Must be one of \[([^\]]*)\]": (
        "vLLM knows no quantisation {m[1]!r}. Known: {m[2]}. Correct it in {table}, or leave it "
        "out: vLLM reads it from the model's files"
    ),
    r"Cannot find the config file for (\S+)": (
        "the files of {model} are not quantised by {m[1]}, " + _OTHERWISE
    ),
    r"specified in the model config \((\S+)\) does not match": (
        "the files of {model} are quantised by {m[1]}, " + _OTHERWISE
    ),
    r"(?:torch\.)?(\w+) is not supported for quantization method (\w+)\. Supported dtypes: "
    r"\[([^\]]*)\]": (
        "the quantisation {m[2]} does not run with dtype {m[1]}, but with {m[3]}. Set dtype in "
        "{table}"
    ),
    r"Bfloat16 is only supported on GPUs with compute capability": (
        'this GPU has no bfloat16. Set dtype = "float16" in {table}'
    ),
    r"LoRA rank (\d+) is greater than max_lora_rank": (
        'a LoRA adapter has the rank {m[1]}. Set it: {table} args = ["--max-lora-rank", "{m[1]}"]'
    ),
    r"Model architectures (\[[^\]]*\]) are not supported": (
        "this vLLM does not know the architecture {m[1]} of {model}. Update vLLM, or take another "
        "model"
    ),
    r"(?:option|argument) `trust_remote_code=True`": (
        "{model} brings code of its own, which vLLM would run. If you trust it: {table} "
        'args = ["--trust-remote-code"]'
    ),
    r"error: unrecognized arguments: ([^\n]*)": (
        "vLLM knows no argument {m[1]}. Correct args in {table}"
    ),
    r"error: argument ([^\n]*)": "vLLM refuses an argument: {m[1]}. Correct it in {table}",
    r"No module named '?vllm'?\b(?!\.)": (
        "vLLM is not installed in the Python that was to run it. Run: moa doctor"
    ),
    r"Failed to infer device type|No CUDA GPUs are available|no NVIDIA driver": (
        "vLLM finds no GPU that it can use. Is the driver there (nvidia-smi)? Without a GPU it "
        "takes vllm-cpu: moa doctor says how to install it"
    ),
}
"""Patterns of vLLM's messages, and the sentence that replaces each; `m` is the match."""


def explain(lines: Sequence[str], *, spec: ServerSpec, code: int) -> str:
    """Explain from the last lines of its log why a server ended, and what to do.

    Its exit code is negative where a signal ended it.
    """
    messages = [stripped for line in lines if (stripped := _PREFIX.sub("", line).strip())]
    text = "\n".join(messages)
    for pattern, sentence in _KNOWN.items():
        if match := re.search(pattern, text, re.IGNORECASE):
            return _about(spec, sentence, match)
    return _unknown(messages, code)


def describe_taken_port(spec: ServerSpec) -> str:
    """Return the sentence that another program has the server's port."""
    return _about(spec, _PORT_TAKEN)


def _about(spec: ServerSpec, sentence: str, match: re.Match[str] | None = None) -> str:
    return sentence.format(
        name=spec.name,
        model=spec.model,
        port=spec.port,
        next_port=spec.port + 1,
        table=f"[endpoints.{spec.name}.vllm]",
        m=match,
    )


def _unknown(messages: Sequence[str], code: int) -> str:
    faults = [line for line in messages if _FAULT.match(line)]
    if code >= 0 and not faults and any(map(_ENGINE_DIED.search, messages)):
        return (
            "its engine, a process of vLLM's, died without a word: it was killed, which is what "
            "the system does when memory runs out"
        )
    if code == -9:
        how = "it was killed (SIGKILL), which is what the system does when memory runs out"
    elif code < 0:
        how = f"it was ended by signal {-code}"
    else:
        how = f"it ended with exit code {code}"
    last = " / ".join(line[:_LONGEST] for line in (faults[-1:] or messages[-_LAST_LINES:]))
    return f"{how}. Its last words: {last}" if last else f"{how}, without a word"
