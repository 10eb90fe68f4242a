"""Tiny cross-encoders of random weights, and transformers beside them: they prove the computation, not the meaning."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ModernBertConfig,
    PretrainedConfig,
    RobertaConfig,
)

from services.reranking.pairs import Pair, PairTokenizer

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 34}
CONFIGS: dict[str, PretrainedConfig] = {
    "bert": BertConfig(**SIZES, num_labels=1, max_position_embeddings=64),
    "roberta": RobertaConfig(**SIZES, num_labels=1, max_position_embeddings=66, pad_token_id=1, type_vocab_size=1),
    "modernbert": ModernBertConfig(
        **SIZES, num_labels=1, max_position_embeddings=64, local_attention=16, global_attn_every_n_layers=2,
        pad_token_id=0, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3,
    ),
    "distilbert": DistilBertConfig(
        dim=32, n_layers=2, n_heads=4, hidden_dim=64, vocab_size=34, num_labels=1, max_position_embeddings=64
    ),
}  # fmt: skip
TEXTS = ("a b c", "q u i c k b r o w n f o x", "z", " ".join(string.ascii_lowercase), "t h e e n d")


def save_tiny(folder: Path, config: PretrainedConfig) -> Path:
    """A cross-encoder of random weights that are large enough to make logits differ, and a tokenizer of letters."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.3) if value.dim() > 1 else None
    model.save_pretrained(str(folder))
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {token: number for number, token in enumerate([*specials, *string.ascii_lowercase, *"123?"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens(specials)
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    typed = 1 if config.model_type == "bert" else 0
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair=f"[CLS] $A [SEP] $B:{typed} [SEP]:{typed}",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def all_pairs(tokenizer: PairTokenizer, texts: Sequence[str] = TEXTS) -> list[Pair]:
    """Every text as a question of every other."""
    ids = tokenizer.ids(texts)
    return [(query, passage) for query in ids for passage in ids]


def oracle(folder: Path, texts: Sequence[str] = TEXTS) -> np.ndarray:
    """(pairs,) float32 logits of `all_pairs` by transformers, one pair at a time, by the tokenizer's own template."""
    model = AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    with torch.no_grad():
        return np.array([_logit(model, tokenizer, query, passage) for query in texts for passage in texts], np.float32)


def _logit(model: torch.nn.Module, tokenizer: Tokenizer, query: str, passage: str) -> float:
    encoding = tokenizer.encode(query, passage)
    ids = torch.tensor([encoding.ids])
    kinds = {"token_type_ids": torch.tensor([encoding.type_ids])} if any(encoding.type_ids) else {}
    return float(model(input_ids=ids, attention_mask=torch.ones_like(ids), **kinds).logits)
