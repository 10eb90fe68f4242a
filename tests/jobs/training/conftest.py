"""A tiny cross-encoder with the built-in vocabulary, and a small labelled folder in the BEIR layout."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from jobs.training.network import load_network
from jobs.training.pairs import PairBuilder
from jobs.training.sampling import Pool
from services.models import BUILTIN, locate

TOPICS = ("tide", "copper", "violin", "glacier", "harvest", "orbit", "lantern", "saddle")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    """A folder of a random two-layer BERT of width 32."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    shutil.copyfile(locate(BUILTIN).path / "tokenizer.json", folder / "tokenizer.json")
    return folder


@pytest.fixture
def network(tiny_base):
    return load_network(tiny_base, torch.device("cpu"))


@pytest.fixture(scope="session")
def builder(tiny_base):
    return PairBuilder((tiny_base / "tokenizer.json").read_text(), 0)


@pytest.fixture
def pool():
    """Forty passages of which number n answers question n; rank r of a question's list is a known row."""
    rng = np.random.default_rng(3)
    passages = [rng.integers(1_000, 2_000, 12).astype(np.uint32) for _ in range(40)]
    return Pool(
        name="numbers",
        questions=[passages[n][:3] for n in range(10)],
        passages=passages,
        positives=[[n] for n in range(10)],
        rankings=[[row for row in range(40) if row not in (n, 39)] for n in range(10)],
        free=np.arange(39),
        rarity=np.ones(2_000, np.float32),
    )


@pytest.fixture
def labelled(tmp_path) -> Path:
    return write_labelled(tmp_path / "topics")


def write_labelled(folder: Path) -> Path:
    """Twelve documents on each of eight topics; a question asks for one document by its own number."""
    (folder / "qrels").mkdir(parents=True)
    documents = [
        {"_id": f"{topic}-{n}", "title": f"{topic} {n}", "text": f"About the {topic}: entry number{n} tells of it."}
        for topic in TOPICS
        for n in range(12)
    ]
    queries = [{"_id": f"q-{row['_id']}", "text": f"what does {row['title']} tell"} for row in documents]
    write_rows(folder / "corpus.jsonl", documents)
    write_rows(folder / "queries.jsonl", queries)
    split = {"train": documents[:-12], "dev": documents[-12:]}
    for name, rows in split.items():
        lines = ["query-id\tcorpus-id\tscore", *(f"q-{row['_id']}\t{row['_id']}\t1" for row in rows)]
        (folder / "qrels" / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def write_rows(path: Path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
