"""Whose token ids are stored beside a tenant's chunks: those of its large cross-encoder's tokenizer.

Ids of another tokenizer would be nonsense to a model, so every receipt and release names the tokenizer by digest.
A tenant whose cross-encoder is not to be had gets no ids; whoever scores its chunks then reads the text itself.
"""

from __future__ import annotations

import logging

import pyarrow as pa

from services.reranking.checkpoint import pair_tokenizer as load_pair_tokenizer
from services.reranking.pairs import PairTokenizer
from tenants.corpus.schema import TOKEN_IDS
from tenants.errors import FathomError

log = logging.getLogger(__name__)


def pair_tokenizer(reference: str, *, registry: str | None = None) -> PairTokenizer | None:
    """The tokenizer of the cross-encoder that `reference` names, None (and a warning) when it cannot be found."""
    try:
        return load_pair_tokenizer(reference, registry=registry)
    except (FathomError, OSError, ValueError) as error:
        log.warning("chunks get no token ids: the tokenizer of %s cannot be read: %s", reference, error)
        return None


def with_token_ids(table: pa.Table, tokenizer: PairTokenizer | None) -> pa.Table:
    """`table` with `token_ids` made from its `lexical`, null without a tokenizer."""
    place = table.schema.get_field_index(TOKEN_IDS.name)
    ids = tokenizer.ids(table["lexical"].to_pylist()) if tokenizer else [None] * table.num_rows
    return table.set_column(place, TOKEN_IDS, pa.array(ids, TOKEN_IDS.type))
