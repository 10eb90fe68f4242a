"""Small objects beside a corpus (pointers, receipts, manifests) on a local disk or an object store.

Three promises the callers build on, the same on both: `put_new` has exactly one winner (compare-and-swap by
put-if-absent), `put` is atomic, and `swap` replaces a value only if nobody else did in between. On a local disk
everything is fsynced (file, then directory) before a call returns, because LanceDB does no fsync of its own; an
object store acknowledges only what is durable. Credentials of an object store come from its usual environment
variables, which its client reads itself.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import from_url

from tenants.errors import LeaseLost, Unavailable

SWAP_ATTEMPTS = 32


class Objects(Protocol):
    """A folder of small objects; keys are relative, `/`-separated and made by Fathom, never by users."""

    def get(self, key: str) -> bytes | None:
        """The object's bytes, None when there is none."""
        ...

    def put_new(self, key: str, data: bytes) -> bool:
        """Write unless the key exists; True for exactly one of many callers."""
        ...

    def put(self, key: str, data: bytes, *, durable: bool = True) -> None:
        """Write or replace, atomically. `durable=False` skips the barrier (heartbeats)."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object, or everything below it ("": all); a missing one is no error."""
        ...

    def keys(self, prefix: str) -> list[str]:
        """Sorted keys of every object below the folder `prefix`."""
        ...

    def swap(self, key: str, change: Callable[[bytes | None], bytes | None]) -> None:
        """Replace the value by `change(value)` as one step; None from `change` leaves it alone."""
        ...


@lru_cache(maxsize=256)
def open_objects(base: str) -> Objects:
    """The objects below `base`, a local folder or a URL such as `s3://bucket/prefix`."""
    return RemoteObjects(base) if "://" in base else LocalObjects(Path(base))


class LocalObjects:
    """A folder. Names that start with a dot are temporary and never listed."""

    def __init__(self, base: Path) -> None:
        self._base = base

    def get(self, key: str) -> bytes | None:
        """See `Objects`."""
        try:
            return (self._base / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def put_new(self, key: str, data: bytes) -> bool:
        """See `Objects`. A hard link to a finished file fails when the name is taken."""
        path = self._base / key
        with _finished_file(path, data, durable=True) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
        sync_folder(path.parent)
        return True

    def put(self, key: str, data: bytes, *, durable: bool = True) -> None:
        """See `Objects`."""
        path = self._base / key
        with _finished_file(path, data, durable=durable) as temporary:
            temporary.replace(path)
        if durable:
            sync_folder(path.parent)

    def delete(self, key: str) -> None:
        """See `Objects`."""
        _remove(self._base / key if key else self._base)

    def keys(self, prefix: str) -> list[str]:
        """See `Objects`."""
        found: list[str] = []
        for folder, _, names in os.walk(self._base / prefix):
            relative = Path(folder).relative_to(self._base).as_posix()
            found.extend(f"{relative}/{name}" for name in names if not name.startswith("."))
        return sorted(found)

    def swap(self, key: str, change: Callable[[bytes | None], bytes | None]) -> None:
        """See `Objects`. An advisory lock beside the object keeps other processes out meanwhile."""
        path = self._base / key
        make_folder(path.parent)
        with (path.parent / f".{path.name}.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            changed = change(self.get(key))
            if changed is not None:
                self.put(key, changed)


class RemoteObjects:
    """A key prefix of an object store with conditional writes (S3, GCS, Azure)."""

    def __init__(self, base: str) -> None:
        self._store = from_url(base)

    def get(self, key: str) -> bytes | None:
        """See `Objects`."""
        found = self._get(key)
        return None if found is None else found[0]

    def put_new(self, key: str, data: bytes) -> bool:
        """See `Objects`."""
        try:
            with _translated():
                obstore.put(self._store, key, data, mode="create")
        except AlreadyExistsError:
            return False
        return True

    def put(self, key: str, data: bytes, *, durable: bool = True) -> None:
        """See `Objects`. An object store acknowledges only what is durable."""
        with _translated():
            obstore.put(self._store, key, data)

    def delete(self, key: str) -> None:
        """See `Objects`."""
        with _translated():
            found = [*([key] if key else []), *self.keys(key)]
            obstore.delete(self._store, found)

    def keys(self, prefix: str) -> list[str]:
        """See `Objects`."""
        with _translated():
            return sorted(item["path"] for batch in obstore.list(self._store, prefix) for item in batch)

    def swap(self, key: str, change: Callable[[bytes | None], bytes | None]) -> None:
        """See `Objects`. Repeats on a lost race; raises `LeaseLost` when it never wins."""
        for _ in range(SWAP_ATTEMPTS):
            found = self._get(key)
            changed = change(None if found is None else found[0])
            if changed is None or self._put_over(key, changed, found):
                return
        raise LeaseLost(f"{key} changes faster than it can be written; try again when other writers are done")

    def _put_over(self, key: str, data: bytes, found: tuple[bytes, dict[str, Any]] | None) -> bool:
        mode: Any = "create" if found is None else found[1]
        try:
            with _translated():
                obstore.put(self._store, key, data, mode=mode)
        except (AlreadyExistsError, PreconditionError):
            return False
        return True

    def _get(self, key: str) -> tuple[bytes, dict[str, Any]] | None:
        try:
            with _translated():
                result = obstore.get(self._store, key)
                # The client refuses a None here, and a plain bucket has no versions.
                known = {name: result.meta[name] for name in ("e_tag", "version") if result.meta[name] is not None}
                return bytes(result.bytes()), known
        except FileNotFoundError:
            return None


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, AlreadyExistsError, PreconditionError):
        raise
    except BaseError as error:
        kind = type(error).__name__
        raise Unavailable(f"the object store did not answer ({kind}); try again", retry_after_s=2) from error


@contextmanager
def _finished_file(path: Path, data: bytes, *, durable: bool) -> Iterator[Path]:
    """A temporary file beside `path` that holds `data`, gone afterwards whatever happens."""
    make_folder(path.parent)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(6)}.tmp"
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    """Delete a file or a folder; what another process adds or takes meanwhile is no error."""
    if path.is_dir() and not path.is_symlink():
        for child in list(path.iterdir()):
            _remove(child)
        with suppress(OSError):
            path.rmdir()
    else:
        path.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Create `path` and its parents, each new name durable in its parent."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a local folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_files(paths: Iterable[str]) -> None:
    """The barrier for files that a library wrote without fsync; names on an object store need none."""
    folders = set()
    for path in paths:
        if "://" not in path:
            folders.add(Path(path).parent)
            with Path(path).open("rb") as file:
                os.fsync(file.fileno())
    for folder in folders:
        sync_folder(folder)


def sync_tree(base: str, since_s: float) -> None:
    """`sync_files` of everything below the folder `base` changed since then (seconds since the epoch)."""
    if "://" in base:
        return
    names = (Path(folder, name) for folder, _, files in os.walk(base) for name in files)
    sync_files(str(path) for path in names if _changed(path, since_s))


def _changed(path: Path, since_s: float) -> bool:
    try:
        return path.stat().st_mtime >= since_s
    except FileNotFoundError:
        return False
