"""A checkpoint for vLLM that is made in a second: two layers of Qwen2, random weights, a byte-level tokenizer.

It writes nonsense. That proves the engine, the stream, the grammar, abort and back-pressure; never answer quality.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

VOCABULARY = 2_048
CONTEXT = 4_096
RANK = 8
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = "The evidence says that water boils at 100 degrees [1]. Pumps move water and oil through pipes [2].\n"


def make_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Write the model to `folder` and return it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, special_tokens=SPECIAL)
    tokenizer.train_from_iterator([TEXT] * 10, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL[2], pad_token=SPECIAL[0])
    fast.chat_template = CHAT
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(fast),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def make_adapter(folder: Path, seed: int = 1) -> Path:
    """A LoRA adapter of that checkpoint in PEFT's layout, strong enough to change every word."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = torch.Generator().manual_seed(seed)
    sizes = {"q_proj": 128, "v_proj": 64}
    tensors = {
        f"base_model.model.model.layers.{layer}.self_attn.{name}.lora_{half}.weight": torch.randn(
            shape, generator=chance
        )
        for layer in range(2)
        for name, size in sizes.items()
        for half, shape in (("A", (RANK, 128)), ("B", (size, RANK)))
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK, "lora_dropout": 0.0}
    told = config | {"bias": "none", "target_modules": sorted(sizes), "base_model_name_or_path": "tiny"}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return folder
