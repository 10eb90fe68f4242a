"""Secrets of one platform that lie in files: made once, mode 0600, safe against concurrent starts.

The name shadows nothing: modules are imported absolutely (`tenants.secrets`).
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from tenants.errors import Unavailable

SECRET_HEX_CHARS = 64


def load_or_create_secret(path: Path, prefix: str = "") -> str:
    """The secret in `path`, made there first if the file is missing: `prefix` and 64 hex digits (256 bits).

    Whoever links the finished file first wins, and everybody returns the winner's; no reader ever sees half a
    secret. Raises `Unavailable` when the file cannot be read or made, is empty, or others may read it.
    """
    try:
        if not path.exists():
            _create(path, prefix + secrets.token_hex(SECRET_HEX_CHARS // 2))
        return _read(path)
    except OSError as error:
        raise Unavailable(f"the secret {path} cannot be read or made: {error.strerror}; check its folder") from None


def _create(path: Path, secret: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()


def _read(path: Path) -> str:
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise Unavailable(f"others may read the secret {path}; run `chmod 600 {path}`")
    secret = path.read_text().strip()
    if not secret:
        raise Unavailable(f"the secret {path} is empty; delete it, and a new one is made")
    return secret
