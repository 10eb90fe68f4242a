"""A BERT or RoBERTa cross-encoder's weights → an OpenVINO graph from a query-passage pair to its logit.

The trunk is the embedder's (`services/embedding/bert.py`). Only the first token's hidden state is read out, so the
last layer computes only that row: keys and values of all tokens, all else of one. The logit is the same.

Input  input_ids, attention_mask, token_type_ids, each (b, length) int64, padding on the right.
Output logit (b, 1) float32 = w·tanh(P·h₀ + p) + c, the pooler and classifier of `BertForSequenceClassification` and
`RobertaForSequenceClassification` (dense and out_proj there).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import openvino.opset15 as ops

from services.embedding.bert import BertTrunk, const, ints, up_to_length
from services.embedding.quantise import Float32, Sample, calibration_passages, outputs
from services.reranking.checkpoint import Checkpoint
from services.reranking.pairs import PairTokenizer, pair_batches

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
POOLERS = ("pooler.dense", "classifier.dense")
CLASSIFIERS = ("classifier.out_proj", "classifier")
FOREIGN_PASSAGE = 7  # a calibration query is also paired with the passage this far behind its own


class PairGraph(BertTrunk):
    """`checkpoint` as a graph; with a plan the products named in it run on int8."""

    inputs = INPUTS

    def __init__(self, checkpoint: Checkpoint) -> None:
        weights = {
            name.removeprefix("bert.").removeprefix("roberta."): value for name, value in checkpoint.weights.items()
        }
        super().__init__(checkpoint.config, weights)

    def _placed(self, inputs: Mapping[str, Any]) -> Any:
        kinds = [self._places(kind) for kind in range(int(self._config["type_vocab_size"]))]
        length = len(kinds[0])
        places = up_to_length(const(np.arange(length)), inputs["input_ids"])
        if len(kinds) == 1:
            return ops.unsqueeze(ops.gather(const(kinds[0]), places, ints(0)), ints(0))
        rows = ops.add(ops.multiply(inputs["token_type_ids"], ints(length)), places)
        return ops.gather(const(np.concatenate(kinds)), rows, ints(0))

    def _asking(self, number: int, x: Any) -> Any:
        if number + 1 < len(self.layers):
            return x
        return ops.slice(x, ints([0]), ints([1]), ints([1]), ints([1]))

    def _read_out(self, hidden: Any, kept: Any) -> Any:
        first = ops.squeeze(hidden, ints([1]))
        pooled = ops.tanh(self._affine(first, POOLERS))
        logit = self._affine(pooled, CLASSIFIERS)
        logit.output(0).set_names({"logit"})
        return logit

    def _affine(self, x: Any, names: tuple[str, ...]) -> Any:
        name = next(name for name in names if name + ".weight" in self._weights)
        product = ops.matmul(x, const(self._weights[name + ".weight"]), False, True)
        return ops.add(product, const(self._weights[name + ".bias"].reshape(1, -1)))


def calibration_pairs(tokenizer: PairTokenizer) -> list[Sample]:
    """Pairs of the project's own text, one a sample: each passage's first sentence with it, and with another."""
    passages = calibration_passages()
    queries = tokenizer.ids([passage.split(". ")[0] for passage in passages])
    stored = tokenizer.ids(passages)
    pairs = [
        (query, stored[(number + far) % len(stored)])
        for number, query in enumerate(queries)
        for far in (0, FOREIGN_PASSAGE)
    ]
    ordered = pair_batches(tokenizer.windows(pairs), budget_tokens=1, multiple=1, pad_id=0)
    return [dict(zip(INPUTS, (batch.ids, batch.mask, batch.types), strict=True)) for batch in ordered]


def correlation(graph: Any, other: Any, samples: Sequence[Sample]) -> float:
    """Pearson correlation of the two graphs' logits over `samples`; computed in fp32."""
    left, right = (_logits(one, samples) for one in (graph, other))
    return float(np.corrcoef(left, right)[0, 1])


def _logits(graph: Any, samples: Sequence[Sample]) -> Float32:
    return np.concatenate([results[0].reshape(-1) for results in outputs(graph, samples)])
