"""Causes: what vLLM says when it ends, as a sentence that says what to do.

The texts marked `seen` are from logs of vLLM 0.32 on a processor; the others were put together
from the messages in its source, in that of transformers 5, and in that of huggingface_hub 1.
"""

from __future__ import annotations

import pytest
from moa.vllm.causes import Served, explain

SERVED = Served("small", "Qwen/Qwen3-0.6B", 8000)
LAST = (
    "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. "
    "Failed core proc(s): {}"
)
ERROR = "(EngineCore pid=2) ERROR 11-25 15:55:43 [core.py:1510] "


def explained(text: str, *, code: int = 1) -> str:
    return explain([*text.splitlines(), LAST], served=SERVED, code=code)


@pytest.mark.parametrize(
    ("log", "said"),
    [
        pytest.param(
            ERROR + "ValueError: Free memory on device cuda:0 (3.12/79.1 GiB) on startup is less "
            "than desired GPU memory utilization (0.92, 72.77 GiB). Decrease GPU memory "
            "utilization or reduce GPU memory used by other processes.",
            "of the 79.1 GiB of this GPU 3.12 GiB are free, and small asks for 72.77 GiB "
            "(gpu_memory_utilization = 0.92). Stop what else uses it (nvidia-smi), or set less in "
            "[endpoints.small.vllm]",
            id="GPU in use",
        ),
        pytest.param(
            ERROR + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU "
            "0 has a total capacity of 23.58 GiB of which 14.00 MiB is free.",
            "there is not enough GPU memory for Qwen/Qwen3-0.6B.",
            id="no GPU memory",
        ),
        pytest.param(
            ERROR + "ValueError: No available memory for the cache blocks. Try increasing "
            "`gpu_memory_utilization` when initializing the engine (this flag also controls CPU "
            "memory reservation on the CPU backend, despite its name).",
            "the weights of Qwen/Qwen3-0.6B leave no memory for its KV cache.",
            id="no memory for the cache",
        ),
        pytest.param(
            ERROR + "ValueError: To serve at least one request with the model's max seq len "
            "(40960), (4.38 GiB KV cache is needed, which is larger than the available KV cache "
            "memory (1.0 GiB). Based on the available memory, the estimated maximum model length "
            "is 9344. Try increasing `gpu_memory_utilization`",
            "the KV cache of one request of 40960 tokens takes 4.38 GiB, and 1.0 GiB are left for "
            "it. Set max_model_len = 9344 in [endpoints.small.vllm]",
            id="too long for the cache",
        ),
        pytest.param(
            ERROR + "ValueError: To serve at least one request with the model's max seq len "
            "(40960), (4.38 GiB KV cache is needed, which is larger than the available KV cache "
            "memory (0.01 GiB). Try increasing `gpu_memory_utilization`",
            "Set a smaller max_model_len in [endpoints.small.vllm]",
            id="far too long for the cache",
        ),
        pytest.param(
            "  Value error, User-specified max_model_len (999999) is greater than the derived "
            "max_model_len (max_position_embeddings=8192.0 or model_max_length=None in model's "
            "config.json). To allow overriding this maximum, set the env var "
            "VLLM_ALLOW_LONG_MAX_MODEL_LEN=1.",
            "max_model_len = 999999 is more than Qwen/Qwen3-0.6B was made for, which is 8192",
            id="too long for the model (seen)",
        ),
        pytest.param(
            "(Worker pid=3) ERROR 11-25 15:55:43 [multiproc_executor.py:1063] ValueError: "
            "Available memory on node 0 (7.8/10.21 GiB) on kv cache allocation is less than "
            "requested memory for kv (500.0 GiB). Decrease --kv-cache-memory-bytes, "
            "VLLM_CPU_KVCACHE_SPACE, or reduce CPU memory used by other processes.",
            "the KV cache is to take 500.0 GiB of RAM, and 7.8 GiB are free",
            id="cache larger than RAM (seen)",
        ),
        pytest.param(
            ERROR + "ValueError: Available memory on node 0 (2.1/10.21 GiB) on startup is less "
            "than desired CPU memory utilization (0.92, 9.4 GiB).",
            "2.1 GiB of RAM are free, which is less than vLLM sets aside",
            id="no RAM",
        ),
        pytest.param(
            "OSError: [Errno 98] Address already in use",
            "port 8000 is taken by another program. Stop that one, or set another: "
            "[endpoints.small.vllm] port = 8001",
            id="port",
        ),
        pytest.param(
            "OSError: You are trying to access a gated repo.\nMake sure to have access to it at "
            "https://huggingface.co/meta-llama/Meta-Llama-3-8B.\n401 Client Error.",
            "has a licence that has to be accepted. Accept it on "
            "https://huggingface.co/Qwen/Qwen3-0.6B, make a token there, and run: export HF_TOKEN",
            id="licence",
        ),
        pytest.param(
            "OSError: Qwen/Qwen9 is not a local folder and is not a valid model identifier listed "
            "on 'https://huggingface.co/models'",
            "the hub has no model 'Qwen/Qwen3-0.6B', or it is private",
            id="wrong name",
        ),
        pytest.param(
            "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or "
            "'namespace/repo_name': 'a/b/c'. Use `repo_type` argument if needed.",
            "is neither a folder with a config.json nor a name on the hub",
            id="no name (seen)",
        ),
        pytest.param(
            "  Value error, Invalid repository ID or local directory specified: 'x'.\nPlease "
            "verify the following requirements:",
            "is neither a folder with a config.json nor a name on the hub",
            id="folder without a model (seen)",
        ),
        pytest.param(
            "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and "
            "couldn't find them in the cached files.",
            "is not on this machine, and the hub can't be reached",
            id="hub out of reach (seen)",
        ),
        pytest.param(
            "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached "
            "snapshot folder for the specified revision on the local disk and outgoing traffic has "
            "been disabled.",
            "is not on this machine, and the hub can't be reached",
            id="offline (seen)",
        ),
        pytest.param(
            "ValueError: The quantization method fp8 is not supported for the current GPU. Minimum "
            "capability: 89. Current capability: 75.",
            "the quantisation fp8 of Qwen/Qwen3-0.6B needs a GPU of compute capability 89, and "
            "this one has 75",
            id="quantisation for a newer GPU",
        ),
        pytest.param(
            "  Value error, gguf quantization is currently not supported in cpu.",
            "the quantisation gguf of Qwen/Qwen3-0.6B does not run on this cpu",
            id="quantisation for another device",
        ),
        pytest.param(
            "(Worker pid=18884) ERROR 11-25 15:51:39 [multiproc_executor.py:953] RuntimeError: "
            "_C::static_scaled_fp8_quant() expected at most 0 argument(s) but received 4 "
            "argument(s). Declaration: _C::static_scaled_fp8_quant() -> ()",
            "the quantisation fp8 of Qwen/Qwen3-0.6B does not run on this processor",
            id="quantisation on the processor (seen)",
        ),
        pytest.param(
            "  Value error, Unknown quantization method: nosuch. Must be one of ['awq', 'fp8'].",
            "vLLM knows no quantisation 'nosuch'. Known: 'awq', 'fp8'",
            id="unknown quantisation (seen)",
        ),
        pytest.param(
            "  Value error, Cannot find the config file for awq [type=value_error, input_value=",
            "the files of Qwen/Qwen3-0.6B are not quantised by awq",
            id="not so quantised (seen)",
        ),
        pytest.param(
            "  Value error, Quantization method specified in the model config (gptq) does not "
            "match the quantization method specified in the `quantization` argument (awq).",
            "the files of Qwen/Qwen3-0.6B are quantised by gptq",
            id="otherwise quantised",
        ),
        pytest.param(
            "  Value error, torch.bfloat16 is not supported for quantization method awq. Supported "
            "dtypes: [torch.float16]",
            "the quantisation awq does not run with dtype bfloat16, but with torch.float16",
            id="quantisation and type",
        ),
        pytest.param(
            "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least "
            "8.0. Your Tesla T4 GPU has compute capability 7.5.",
            'this GPU has no bfloat16. Set dtype = "float16"',
            id="no bfloat16",
        ),
        pytest.param(
            "OSError: [Errno 28] No space left on device: '/root/.cache/huggingface/hub'",
            "the disk is full, so Qwen/Qwen3-0.6B could not be fetched or loaded",
            id="full disk",
        ),
        pytest.param(
            "ValueError: LoRA rank 64 is greater than max_lora_rank 16.",
            '[endpoints.small.vllm] args = ["--max-lora-rank", "64"]',
            id="rank of an adapter",
        ),
        pytest.param(
            "api_server.py: error: unrecognized arguments: --no-such-flag",
            "vLLM knows no argument --no-such-flag. Correct args in [endpoints.small.vllm]",
            id="unknown argument (seen)",
        ),
        pytest.param(
            "api_server.py: error: argument --dtype: invalid choice: 'float3' (choose from ...)",
            "vLLM refuses an argument: --dtype: invalid choice: 'float3'",
            id="refused argument",
        ),
        pytest.param(
            "python: Error while finding module specification for "
            "'vllm.entrypoints.openai.api_server' (ModuleNotFoundError: No module named 'vllm')",
            "vLLM is not installed in the Python that was to run it",
            id="not installed",
        ),
        pytest.param(
            "RuntimeError: Failed to infer device type, please set the environment variable "
            "`VLLM_LOGGING_LEVEL=DEBUG` to turn on verbose logging to help debug the issue.",
            "vLLM finds no GPU that it can use",
            id="no device",
        ),
        pytest.param(
            "ValueError: Model architectures ['NewForCausalLM'] are not supported for now. "
            "Supported architectures: dict_keys(['A'])",
            "this vLLM does not know the architecture ['NewForCausalLM']",
            id="architecture",
        ),
        pytest.param(
            "ValueError: The repository contains custom code which must be executed to correctly "
            "load the model. Please pass the argument `trust_remote_code=True` to allow custom "
            "code to be run.",
            "brings code of its own",
            id="custom code",
        ),
    ],
)
def test_a_known_message_is_a_sentence_that_says_what_to_do(log: str, said: str) -> None:
    assert said in explained(log)


def test_a_setting_in_the_log_is_no_cause() -> None:
    log = "INFO [core.py:133] Initializing: trust_remote_code=True, seed=0\nKeyError: 1"
    assert explained(log).endswith("Its last words: KeyError: 1")


def test_of_an_unknown_message_the_root_cause_is_shown() -> None:
    said = explained(ERROR + "Traceback (most recent call last):\n" + ERROR + "KeyError: 'layers'")
    assert said == "it ended with exit code 1. Its last words: KeyError: 'layers'"


def test_an_engine_that_was_killed_may_have_run_out_of_memory() -> None:
    dead = "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. (seen)"
    assert "its engine, a process of vLLM's, died" in explain([dead], served=SERVED, code=0)
    said = explain(["KeyError: 'layers'", dead], served=SERVED, code=0)
    assert said.endswith("KeyError: 'layers'")


def test_without_an_error_the_last_lines_are_shown() -> None:
    said = explain(["one", "two", "", "three", "four"], served=SERVED, code=3)
    assert said == "it ended with exit code 3. Its last words: two / three / four"


def test_a_server_that_was_killed_may_have_run_out_of_memory() -> None:
    assert "memory runs out" in explain([], served=SERVED, code=-9)
    assert explain([], served=SERVED, code=-11) == "it was ended by signal 11, without a word"
