"""Many waiting writers, one transaction: a thread takes all that waits, writes it, and tells everybody.

At concurrency 1 an item pays one commit; under load hundreds share one fsync. Knows nothing of databases.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from tenants.errors import FathomError, Unavailable

Item = TypeVar("Item")


class GroupCommit(Generic[Item]):
    """`write` gets 1..`most` items in the order of their submission and returns once they are durable.

    The thread starts at the first `submit`. An error of `write` goes to every item of its batch.
    """

    def __init__(self, write: Callable[[Sequence[Item]], None], *, name: str, most: int = 256) -> None:
        self._write = write
        self._name = name
        self._most = most
        self._queue: SimpleQueue[tuple[Item, Future[None]] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, item: Item) -> Future[None]:
        """Done once the item is durable. Raises `Unavailable` after `close`."""
        done: Future[None] = Future()
        with self._lock:
            if self._closed:
                raise Unavailable("this process is stopping; ask again", retry_after_s=1)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._queue.put((item, done))
        return done

    def close(self) -> None:
        """Write what waits, then stop."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            self._queue.put(None)
            thread.join()

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

    def _commit(self, batch: list[tuple[Item, Future[None]]]) -> None:
        # An item that nobody waits for any more is written all the same: its question was answered.
        try:
            self._write([item for item, _ in batch])
        except FathomError as error:
            for _, done in batch:
                if not done.cancelled():
                    done.set_exception(error)
        else:
            for _, done in batch:
                if not done.cancelled():
                    done.set_result(None)
