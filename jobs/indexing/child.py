"""The confined child: reads requests from stdin, answers on stdout, until stdin ends. Run by `sandbox`.

A frame is 4 bytes of length (big endian) and that many of MessagePack. One request, one answer:
    {op: "parse", path, members, name}  → {document: …} | {reason, message}
    {op: "list", path}                  → {kind, members: [[path, size, digest | null, reason, message]]} | {reason, …}
    {op: "extract", path, members}      → {data: bytes} | {reason, message}
Each answer also says `peak_bytes`, the most memory the process has held.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from jobs.indexing.archive import Archive, walk
from jobs.indexing.confine import allow_cpu, confine
from jobs.indexing.formats.document import Parsed
from jobs.indexing.formats.read import read
from jobs.indexing.reasons import ParseFailure, Reason
from services.settings import Limits
from tenants.ids import bytes_digest

MAX_TEXT_CHARS = 200 * 1024 * 1024
_ENCODER = msgspec.msgpack.Encoder()


def main() -> None:
    """Confine this process, then serve."""
    limits = msgspec.convert(msgspec.json.decode(sys.argv[1]), dict[str, Any])
    source, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a parser prints must not end up between the frames
    confine(int(limits["parser_memory_bytes"]))
    Server(Limits(**limits)).serve(source, answers)


class Server:
    """Answers requests; keeps the archive it read last, for its members come one after another."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._last: tuple[str, Archive] | None = None

    def serve(self, source: BinaryIO, answers: BinaryIO) -> None:
        """Until the parent closes the pipe."""
        while len(head := source.read(4)) == 4:
            request = msgspec.msgpack.decode(source.read(int.from_bytes(head, "big")))
            allow_cpu(self._limits.parser_seconds)
            answer = _ENCODER.encode(self._answer(request) | {"peak_bytes": peak_bytes()})
            answers.write(len(answer).to_bytes(4, "big") + answer)
            answers.flush()

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            match request["op"]:
                case "parse":
                    data = self._bytes(request["path"], request["members"])
                    return {"document": _plain(read(data, request["name"], self._limits, MAX_TEXT_CHARS))}
                case "list":
                    return self._list(request["path"])
                case _:
                    return {"data": self._bytes(request["path"], request["members"])}
        except ParseFailure as failure:
            return {"reason": failure.reason.value, "message": failure.message}
        except MemoryError:
            self._last = None
            return {"reason": Reason.MEMORY.value, "message": "the parser ran out of memory; split the file"}
        except RecursionError:
            return {"reason": Reason.NESTED_TOO_DEEP.value, "message": "the file's structure is nested too deep"}
        except OSError as error:
            return {"reason": Reason.UNREADABLE.value, "message": f"the file cannot be read: {error.strerror or error}"}
        except Exception as error:  # noqa: BLE001  # outermost frame: a parser may raise anything on a damaged file
            return {"reason": Reason.MALFORMED.value, "message": f"the parser gave up: {type(error).__name__}"}

    def _bytes(self, path: str, members: list[str]) -> bytes:
        if not members:
            return Path(path).read_bytes()
        archive = self._archive(path)
        for name in members[:-1]:
            archive = archive.nested(archive.read(name), self._limits)
        return archive.read(members[-1])

    def _archive(self, path: str) -> Archive:
        if self._last is None or self._last[0] != path:
            self._last = None
            self._last = (path, Archive(Path(path).read_bytes(), self._limits))
        # Each member is read on its own, so each has the whole budget; listing has charged them together.
        return self._last[1].renewed()

    def _list(self, path: str) -> dict[str, Any]:
        archive = self._archive(path)
        if archive.kind() != "archive":
            return {"kind": archive.kind(), "members": []}
        members = []
        for name, found in walk(archive, self._limits):
            if isinstance(found, ParseFailure):
                members.append([name, 0, None, found.reason.value, found.message])
            else:
                members.append([name, len(found), bytes_digest(found), "", ""])
            if len(members) > self._limits.archive_members:
                raise ParseFailure(
                    Reason.TOO_MANY_MEMBERS, f"the archive has more than {self._limits.archive_members} members"
                )
        return {"kind": "archive", "members": members}


def peak_bytes() -> int:
    """The most memory this program has held, in bytes: `ru_maxrss` would count what its parent held at the fork."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def _plain(parsed: Parsed) -> dict[str, Any]:
    return {
        "text": parsed.text,
        "format": parsed.format,
        "title": parsed.title,
        "spans": [[s.start, s.end, s.page, s.t_start_s, s.heading] for s in parsed.spans],
        "metadata": parsed.metadata,
        "url": parsed.url,
        "updated_at": parsed.updated_at,
        "language": parsed.language,
    }


if __name__ == "__main__":
    main()
