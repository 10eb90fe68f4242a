"""Many waiting writers, one transaction: a thread takes all that waits, writes it, and tells everybody.

At concurrency 1 an item pays one commit; under load hundreds share one fsync. Knows nothing of databases.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from tenants.errors import FathomError, Unavailable

Item = TypeVar("Item")

_log = logging.getLogger("fathom.audit")


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Item]):
    """`items` is one item, or none for a `ping`."""

    items: tuple[Item, ...]
    done: Future[None]


class GroupCommit(Generic[Item]):
    """`write` gets up to `most` items in the order of their submission and returns once they are durable.

    `write` of no items only shows whether writing is possible. When a batch fails although it is, its items are
    written one by one: an item that cannot be written takes no other along. An item is handed over at least once,
    twice when a batch failed after it was durable. The thread starts at the first `submit`, and again should it die.
    """

    def __init__(self, write: Callable[[Sequence[Item]], None], *, name: str, most: int = 256) -> None:
        self._write = write
        self._name = name
        self._most = most
        self._queue: SimpleQueue[_Waiting[Item] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, item: Item) -> Future[None]:
        """Done once the item is durable. Raises `Unavailable` after `close`."""
        return self._enqueue((item,))

    def ping(self) -> Future[None]:
        """Done once all that was submitted before is, and a write of nothing worked; raises as `submit` does."""
        return self._enqueue(())

    def close(self) -> None:
        """Write what waits, then stop."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            self._queue.put(None)
            thread.join()

    def _enqueue(self, items: tuple[Item, ...]) -> Future[None]:
        done: Future[None] = Future()
        with self._lock:
            if self._closed:
                raise Unavailable("this process is stopping; ask again", retry_after_s=1)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._queue.put(_Waiting(items, done))
        return done

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, last = [first], False
            while len(batch) < self._most and not last:
                try:
                    entry = self._queue.get_nowait()
                except Empty:
                    break
                last = entry is None
                if entry is not None:
                    batch.append(entry)
            self._commit(batch)
            if last:
                return

    def _commit(self, batch: Sequence[_Waiting[Item]]) -> None:
        # From here on nobody can cancel a future under our hands. An item that nobody waits for any more is written
        # all the same: its question was answered.
        waiting = [entry.done for entry in batch if entry.done.set_running_or_notify_cancel()]
        error = self._failure([item for entry in batch for item in entry.items])
        if error is not None and len(batch) > 1:
            self._one_by_one(batch, error)
            return
        for done in waiting:
            _resolve(done, error)

    def _one_by_one(self, batch: Sequence[_Waiting[Item]], error: FathomError) -> None:
        outage: FathomError | None = None
        failed: FathomError | None = error
        for entry in batch:
            if failed is not None and outage is None:
                outage = self._failure(())  # nothing can be written: trying each would take as many time-outs
            failed = outage or self._failure(entry.items)
            if not entry.done.cancelled():
                _resolve(entry.done, failed)

    def _failure(self, items: Sequence[Item]) -> FathomError | None:
        try:
            self._write(items)
        except FathomError as error:
            return error
        except Exception:  # noqa: BLE001 - this thread's outermost frame; every waiter raises it
            _log.exception("%s: a batch of %d could not be written", self._name, len(items))
            return Unavailable("what belongs to this request could not be stored; try again", retry_after_s=1)
        return None


def _resolve(done: Future[None], error: FathomError | None) -> None:
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
