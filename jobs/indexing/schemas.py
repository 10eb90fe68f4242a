"""The Arrow schemas between source, parse and chunk. Pure.

`SOURCE_SCHEMA`, one row a file, archive member or JSONL row:
  document_id  path relative to the source root (posix, NFC), or the row's own id
  uri          where the bytes are: an absolute path or URL; `!/` parts an archive from its member
  source       the source root that owns the document
  collection   the named part of the corpus it goes into
  kind         `file` · `row` (payload is its JSON line) · `member` (of an archive)
  size         bytes as stored
  digest       128 bits of blake3 over the bytes, hex; null when only reading would tell
  payload      the JSON line of a `row`, else null
  updated_at   when the file last changed, UTC, null when unknown

`PARSED_SCHEMA`, one row a document:
  text         clean text (`clean.py`), the one that character offsets refer to
  spans        half-open character ranges [start, end) in order: `page` counts from 1, `t_start_s` is seconds from
               the start of a recording, `heading` names the unit (sheet, slide, section); each null where unknown
  format       `markdown` · `rst` · `text` · `rows` · `transcript` · `code:<language>`
  metadata     a JSON object as text
  language     ISO 639-1 if the document says so, else "" (chunking guesses)

`ERROR_SCHEMA`, one row a document that did not make it: reason is a `reasons.Reason`.
"""

from __future__ import annotations

import pyarrow as pa

from tenants.corpus.schema import TIMESTAMP

SOURCE_SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("collection", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("digest", pa.string()),
        pa.field("payload", pa.large_binary()),
        pa.field("updated_at", TIMESTAMP),
    ]
)

SPAN: pa.DataType = pa.struct(
    [
        pa.field("start", pa.int32(), nullable=False),
        pa.field("end", pa.int32(), nullable=False),
        pa.field("page", pa.int32()),
        pa.field("t_start_s", pa.float32()),
        pa.field("heading", pa.string()),
    ]
)

PARSED_SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("collection", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("spans", pa.list_(SPAN), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("updated_at", TIMESTAMP),
        pa.field("metadata", pa.string(), nullable=False),
        pa.field("document_digest", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
    ]
)

ERROR_SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
    ]
)
