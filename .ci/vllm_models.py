"""Makes what the vLLM of the checks serves: `python vllm_models.py GGUF FOLDER`.

Run by the Python of vLLM's own environment. Into FOLDER come the weights of the embedded model as
safetensors, under the name of the GGUF; `random-lora`, a random LoRA adapter for them; and
`random-qwen3`, a random Qwen3 of two layers, since vLLM decides over `/v1/systemone` on that family
only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
)

RANK = 8
ADAPTED = ("q_proj", "v_proj")


def convert(gguf: Path, folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Turn GGUF into safetensors, the tokenizer with its chat template included."""
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True)
    ).to(dtype=torch.float32)  # the very weights that the embedded engine has
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    assert tokenizer.chat_template, f"{gguf.name} holds no chat template"
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def adapter(model: PreTrainedModel, folder: Path) -> None:
    """Write a random adapter, strong enough for its answers to be others than the model's own."""
    folder.mkdir()
    tensors: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if name.endswith(ADAPTED):
            rows, columns = module.weight.shape
            place = f"base_model.model.{name}"
            tensors[f"{place}.lora_A.weight"] = torch.randn(RANK, columns) / columns**0.5
            tensors[f"{place}.lora_B.weight"] = torch.randn(rows, RANK) / RANK**0.5
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model.name_or_path,
        "r": RANK,
        "lora_alpha": RANK,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(ADAPTED),
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def tiny(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a random Qwen3 that reads and writes with the tokens of another model."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    Qwen3ForCausalLM(config).to(dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Make all three."""
    gguf, folder = map(Path, sys.argv[1:])
    torch.manual_seed(0)
    model, tokenizer = convert(gguf, folder / gguf.stem)
    adapter(model, folder / "random-lora")
    tiny(tokenizer, folder / "random-qwen3")


if __name__ == "__main__":
    main()
