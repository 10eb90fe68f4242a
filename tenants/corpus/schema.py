"""The Arrow schema of a tenant's corpus: one row a chunk. Pure; reads and writes nothing.

| column          | meaning                                                                  |
|-----------------|--------------------------------------------------------------------------|
| chunk_id        | primary key, `tenants.ids.chunk_id`                                      |
| document_id     | the document, unique in the tenant                                       |
| collection      | the named part of the corpus that the document was indexed into          |
| source          | the source root that owns the document; `--sync` deletes only inside it  |
| ordinal         | 0-based place of the chunk in its document                               |
| title           | the document's title, "" when it has none                                |
| heading         | the headings above the chunk, " > " between them, "" when there are none |
| text            | the chunk's text, verbatim: citations quote it                           |
| lexical         | title, heading and text as the full-text index sees them                 |
| char_start/_end | the chunk's span in the parsed document text, in characters, end excluded|
| page            | 1-based page of the chunk's first character, null without pages          |
| t_start_s       | seconds from the start of a recording, null without time stamps          |
| url             | where a person can open the document, null when unknown                  |
| updated_at      | when the document last changed, UTC                                      |
| metadata        | the document's metadata, a JSON object                                   |
| facets          | the metadata's scalar leaves as filters compare them, `corpus.facets`    |
| document_digest | digest of the document's bytes (or of its JSONL row)                     |
| tokens          | length of `text` in the embedder's tokens, without special tokens        |
| language        | ISO 639-1 guess, "" when unsure                                          |
| vector          | unit vector of title, heading and text, float32 (dimension,)             |
| token_ids       | `lexical` as a cross-encoder reads it: little-endian uint32, no special  |
|                 | tokens, of the tokenizer that the release's profile names; null where    |
|                 | none was there, and absent from tables older than the column             |
"""

from __future__ import annotations

import pyarrow as pa

PRIMARY_KEY = "chunk_id"
TIMESTAMP = pa.timestamp("us", tz="UTC")

_COLUMNS: tuple[tuple[str, pa.DataType, bool], ...] = (
    ("chunk_id", pa.string(), False),
    ("document_id", pa.string(), False),
    ("collection", pa.string(), False),
    ("source", pa.string(), False),
    ("ordinal", pa.int32(), False),
    ("title", pa.string(), False),
    ("heading", pa.string(), False),
    ("text", pa.string(), False),
    ("lexical", pa.string(), False),
    ("char_start", pa.int32(), False),
    ("char_end", pa.int32(), False),
    ("page", pa.int32(), True),
    ("t_start_s", pa.float32(), True),
    ("url", pa.string(), True),
    ("updated_at", TIMESTAMP, True),
    ("metadata", pa.string(), False),
    ("facets", pa.string(), False),
    ("document_digest", pa.string(), False),
    ("tokens", pa.int32(), False),
    ("language", pa.string(), False),
)
TOKEN_IDS = pa.field("token_ids", pa.binary())


def chunk_schema() -> pa.Schema:
    """A chunk before it is embedded: every column but `vector`."""
    return pa.schema([*(_field(*column) for column in _COLUMNS), TOKEN_IDS])


def corpus_schema(dimension: int) -> pa.Schema:
    """A chunk as it is stored; `dimension` is the length of its vector."""
    vector = pa.field("vector", pa.list_(pa.float32(), dimension), nullable=False)
    return pa.schema([*(_field(*column) for column in _COLUMNS), vector, TOKEN_IDS])


def _field(name: str, kind: pa.DataType, nullable: bool) -> pa.Field:
    # Both marks are needed so that Lance treats the column as a key when it merges (docs/decisions).
    metadata = {"lance-schema:unenforced-primary-key": "true"} if name == PRIMARY_KEY else None
    return pa.field(name, kind, nullable=nullable, metadata=metadata)
