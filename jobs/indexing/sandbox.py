"""The parent's side of parsing untrusted files: one confined child process, replaced when it dies or grows old.

The child (`child`) is a fresh interpreter with an empty environment, so it holds no key and no connection; it
confines itself (`confine`) before it reads the first byte. A file that kills it costs a restart and becomes an
error row.
"""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import msgspec

from jobs.indexing.formats.document import Parsed, Span
from jobs.indexing.reasons import ParseFailure, Reason
from services.settings import Limits

RECYCLE_AFTER = 2_000  # requests
RECYCLE_PEAK = 0.5  # of the memory limit: fragmentation must not be what the next file dies of
GRACE_S = 2.0  # the CPU limit should strike before the wall clock does
Member = tuple[str, int, str | None, str, str]  # path, bytes, digest, reason, message

_ROOT = Path(__file__).parents[2]


class Sandbox:
    """Parses one file at a time in its child; starts it at the first call. Use as a context manager, or `close`."""

    def __init__(self, limits: Limits) -> None:
        self.peak_bytes = 0  # the most memory that any child of this sandbox has held
        self._limits = limits
        self._child: subprocess.Popen[bytes] | None = None
        self._served = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()

    def parse(self, path: str, members: list[str], name: str) -> Parsed:
        """Parse a file, or a member of it. Raises `ParseFailure`, whatever happens to the child."""
        return _parsed(self._call({"op": "parse", "path": path, "members": members, "name": name})["document"])

    def list_archive(self, path: str) -> tuple[str, list[Member]]:
        """(kind, members) of a zip; Raises `ParseFailure`."""
        answer = self._call({"op": "list", "path": path})
        return answer["kind"], [(m[0], m[1], m[2], m[3], m[4]) for m in answer["members"]]

    def extract(self, path: str, members: list[str]) -> bytes:
        """The bytes of a member. Raises `ParseFailure`."""
        return bytes(self._call({"op": "extract", "path": path, "members": members})["data"])

    def _call(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            answer = self._exchange(msgspec.msgpack.encode(request))
        if "reason" in answer:
            raise ParseFailure(Reason(answer["reason"]), answer["message"])
        return answer

    def _exchange(self, frame: bytes) -> dict[str, Any]:
        child = self._running()
        assert child.stdin is not None
        assert child.stdout is not None
        deadline = time.monotonic() + self._limits.parser_seconds + GRACE_S
        try:
            child.stdin.write(len(frame).to_bytes(4, "big") + frame)
            child.stdin.flush()
            size = int.from_bytes(_receive(child.stdout, 4, deadline), "big")
            answer: dict[str, Any] = msgspec.msgpack.decode(_receive(child.stdout, size, deadline))
        except (BrokenPipeError, EOFError):
            self._raise_death(child)
        except TimeoutError:
            self.close()
            raise ParseFailure(Reason.TIMEOUT, self._timeout_message()) from None
        except BaseException:
            self.close()  # the pipe holds half a frame now
            raise
        self._after(answer)
        return answer

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            limits = msgspec.json.encode(self._limits.model_dump()).decode()
            self._child = subprocess.Popen(  # noqa: S603  # our own interpreter and module
                [sys.executable, "-m", "jobs.indexing.child", limits],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={
                    "PYTHONPATH": str(_ROOT),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "OMP_NUM_THREADS": "1",
                    "LC_ALL": "C.UTF-8",
                },
                bufsize=0,
            )
            self._served = 0
        return self._child

    def _after(self, answer: dict[str, Any]) -> None:
        self._served += 1
        peak = int(answer["peak_bytes"])
        self.peak_bytes = max(self.peak_bytes, peak)
        old = self._served >= RECYCLE_AFTER or peak > RECYCLE_PEAK * self._limits.parser_memory_bytes
        if old or answer.get("reason") == Reason.MEMORY:
            self.close()

    def _raise_death(self, child: subprocess.Popen[bytes]) -> None:
        code = child.wait()
        self.close()
        if code == -signal.SIGXCPU:
            raise ParseFailure(Reason.TIMEOUT, self._timeout_message())
        if code == -signal.SIGKILL:
            raise ParseFailure(Reason.MEMORY, "the parser was killed, most likely for its memory; split the file")
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        raise ParseFailure(Reason.CRASHED, f"the parser crashed on this file ({how})")

    def _timeout_message(self) -> str:
        return f"parsing took longer than {self._limits.parser_seconds:g} s; split the file"


def _receive(pipe: IO[bytes], size: int, deadline: float) -> bytes:
    blocks = bytearray()
    while len(blocks) < size:
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        block = pipe.read(min(size - len(blocks), 1 << 20))
        if not block:
            raise EOFError
        blocks += block
    return bytes(blocks)


def _parsed(raw: dict[str, Any]) -> Parsed:
    spans = tuple(Span(*span) for span in raw["spans"])
    return Parsed(**{**raw, "spans": spans})
