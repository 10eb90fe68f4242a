"""Multipart bodies: files as they were sent, their names made harmless. Parses nothing inside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from fastapi import Request
from starlette.datastructures import UploadFile

from services import deadline
from services.gateway.bodies import checked_id
from services.gateway.ports import Upload
from services.settings import Limits
from tenants.errors import InvalidInput
from tenants.ids import collection_name

FIELDS = frozenset({"files", "file", "collection"})


async def read_uploads(request: Request, limits: Limits) -> tuple[list[Upload], str]:
    """(files, collection) of fields `files` (or `file`) and `collection`; the file's name becomes the document id.

    Raises `InvalidInput` naming the part. The body's size is bounded before this reads it.
    """
    async with deadline.enforced(), request.form(max_files=limits.batch_documents, max_fields=8) as form:
        uploads: list[Upload] = []
        collection = "default"
        for name, value in form.multi_items():
            if name not in FIELDS:
                raise InvalidInput.field(f"/{name[:64]}", "unknown field; send files in `files`")
            if isinstance(value, UploadFile):
                uploads.append(await _upload(len(uploads), value))
            elif name == "collection":
                collection = collection_name(value)
            else:
                raise InvalidInput.field(f"/{name}", "this part is text; send a file with a filename")
    if not uploads:
        raise InvalidInput.field("/files", "no file was sent")
    return uploads, collection


def written(uploads: Sequence[Upload], collection: str) -> str:
    """What was sent, in short: the collection, and each file's name and digest. Two texts differ when the bodies do."""
    return json.dumps([collection, *([one.name, hashlib.sha256(one.content).hexdigest()] for one in uploads)])


async def _upload(number: int, file: UploadFile) -> Upload:
    # A browser may send a path, and Windows' separators; the id is a name, never a place on our disk.
    name = (file.filename or "").replace("\\", "/").strip("/")
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise InvalidInput.field(f"/files/{number}", "a file needs a plain name")
    return Upload(checked_id(name, f"/files/{number}"), await file.read())
