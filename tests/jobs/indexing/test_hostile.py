"""Hostile and damaged files: the batch ends, each file is a document or an error row, no parser takes over 1 GiB."""

from __future__ import annotations

import gzip
import io
import os
import random
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.indexing import sandbox as sandbox_module
from jobs.indexing.parse import Parser
from jobs.indexing.reasons import Reason
from jobs.indexing.sandbox import Sandbox
from jobs.indexing.source import SourceError, SourceItem, items_table, list_sources
from services.settings import Limits

GIB = 1 << 30
MUTATIONS = int(os.environ.get("FATHOM_TEST_MUTATIONS", "64"))  # of each of 18 samples
SEED = int(os.environ.get("FATHOM_TEST_SEED", "20261123"))
Make = dict[str, Callable[..., bytes]]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of processor time ends a parser, not the wall clock: on a busy machine that one tells nothing."""
    monkeypatch.setattr(sandbox_module, "GRACE_S", 600.0)


def outcome(folder: Path, limits: Limits | None = None) -> tuple[dict[str, str], set[str], int]:
    """Run listing and parsing: (document id → reason of what failed, ids that became documents, peak bytes)."""
    limits = limits or Limits()
    listed = list(list_sources([str(folder)], limits))
    reasons = {e.document_id: e.reason.value for e in listed if isinstance(e, SourceError)}
    with Parser(limits) as parser:
        documents, errors = parser.parse(items_table([i for i in listed if isinstance(i, SourceItem)], "c"))
        peak = parser.sandbox.peak_bytes
    reasons |= {row["document_id"]: row["reason"] for row in errors.to_pylist()}
    return reasons, set(documents["document_id"].to_pylist()), peak


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Damage as it happens: bits flipped, a part cut, doubled, zeroed or replaced by noise, the end missing."""
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(damaged) or 1)
        end = min(len(damaged), start + rng.choice((1, 4, 32, 256)))
        match rng.randrange(7):
            case 0:
                for place in range(start, end):
                    damaged[place] ^= 1 << rng.randrange(8)
            case 1:
                del damaged[start:end]
            case 2:
                damaged[start:start] = damaged[start:end] * rng.randint(1, 20)
            case 3:
                damaged[start:end] = bytes(end - start)
            case 4:
                damaged[start:end] = rng.randbytes(end - start)
            case 5:
                del damaged[max(start, 1) :]
            case _:
                damaged[start:end] = struct.pack("<I", rng.choice((0, 0xFFFFFFFF, 0x7FFFFFFF, 1 << 24)))
    return bytes(damaged)


@pytest.mark.usefixtures("patient")
def test_a_thousand_mutated_files_end_as_documents_or_reasons(samples: dict[str, bytes], tmp_path: Path) -> None:
    rng = random.Random(SEED)
    for name, data in samples.items():
        for number in range(MUTATIONS):
            (tmp_path / f"{number:03d}-{name}").write_bytes(mutate(data, rng))
    files = {path.name for path in tmp_path.iterdir()}
    assert len(files) == MUTATIONS * len(samples)
    reasons, documents, peak = outcome(tmp_path)
    assert set(reasons.values()) <= {reason.value for reason in Reason}
    rows = {name for name in files if ".jsonl" in name}
    told = {name.split("/")[0] for name in (*reasons, *documents)}
    assert files - rows <= told
    assert peak < GIB


def bomb(size: int) -> bytes:
    return zipped_of(b"\0" * size)


def zipped_of(data: bytes, name: str = "big.txt", times: int = 1) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(times):
            archive.writestr(f"{number}{name}", data)
    return buffer.getvalue()


def overlapping(kernel: int, copies: int) -> bytes:
    """Many central entries that all point at one compressed kernel (Fifield 2019)."""
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = packed.compress(b"a" * kernel) + packed.flush()
    crc = zlib.crc32(b"a" * kernel)
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0, crc, len(body), kernel, 1, 0) + b"0" + body
    central = b"".join(
        struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 8, 0, 0, crc, len(body), kernel, 1, 0, 0, 0, 0, 0, 0)
        + bytes([48 + n])
        for n in range(copies)
    )
    return local + central + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, copies, copies, len(central), len(local), 0)


def encrypted_zip(make: Make) -> bytes:
    data = bytearray(make["zipped"]({"a.txt": "secret words"}))
    data[6] |= 1
    place = data.index(b"PK\1\2")
    data[place + 8] |= 1
    return bytes(data)


def linked_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("link.txt")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


XML_BOMB = (
    '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "lol">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(10))
    + "]><l>&k;</l>"
)
OUTSIDE = '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY x SYSTEM "file:///etc/passwd">]><l>&x;</l>'


def hand_made(make: Make) -> dict[str, tuple[bytes, set[str]]]:
    """File name → (bytes, reasons that are right for it; empty when it must become a document)."""
    zipped, pdf = make["zipped"], make["pdf"]
    nested = zipped({"a.txt": "words"})
    for _ in range(5):
        nested = zipped({"n.zip": nested})
    huge_claim = pdf().replace(b"/Count 2", b"/Count 200000")
    w = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    deep = f"<w:document {w}><w:body>" + "<w:p>" * 50_000 + "</w:p>" * 50_000 + "</w:body></w:document>"
    return {
        "empty.pdf": (b"", {"empty"}),
        "empty.docx": (b"", {"empty"}),
        "empty.md": (b"", {"empty"}),
        "blank.html": (b"<html><body>  </body></html>", {"empty"}),
        "space.txt": (b" \n\t \xe2\x80\x8b", {"empty"}),
        "nul.txt": (bytes(10_000), {"unsupported", "empty"}),
        "noise.txt": (random.Random(1).randbytes(20_000), {"unsupported", "encoding"}),
        "noise.pdf": (b"%PDF-1.7\n" + random.Random(2).randbytes(20_000), {"malformed", "empty"}),
        "image.png": (b"\x89PNG\r\n\x1a\n" + bytes(100), {"unsupported"}),
        "old.doc": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(1_000), {"unsupported"}),
        "locked.docx": (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99) + "EncryptedPackage".encode("utf-16-le"), {"encrypted"}
        ),
        "bomb.zip": (bomb(24 << 20), {"zip_bomb", "too_large"}),
        "bomb.docx": (zipped({"word/document.xml": b" " * (24 << 20)}), {"zip_bomb"}),
        "bomb.txt.gz": (gzip.compress(bytes(24 << 20)), {"zip_bomb", "too_large"}),
        "overlap.zip": (overlapping(3 << 20, 200), {"zip_bomb", "malformed"}),
        "many.zip": (zipped({f"{n}.txt": "x" for n in range(10_001)}), {"too_many_members"}),
        "nested.zip": (nested, {"nested_too_deep"}),
        "locked.zip": (encrypted_zip(make), {"encrypted"}),
        "linked.zip": (linked_zip(), {"outside_root"}),
        "slip.zip": (zipped({"../../evil.txt": "words"}), {"outside_root"}),
        "root.zip": (zipped({"/etc/evil.txt": "words"}), {"outside_root"}),
        "drive.zip": (zipped({"C:\\evil.txt": "words"}), {"outside_root"}),
        "cut.zip": (zipped({"a.txt": "words" * 100})[:-30], {"malformed"}),
        "xmlbomb.docx": (zipped({"word/document.xml": XML_BOMB}), {"malformed"}),
        "outside.docx": (zipped({"word/document.xml": OUTSIDE}), {"malformed"}),
        "xmlbomb.epub": (zipped({"META-INF/container.xml": XML_BOMB}), {"malformed"}),
        "xmlbomb.xlsx": (zipped({"xl/workbook.xml": XML_BOMB}), {"malformed"}),
        "deep.docx": (zipped({"word/document.xml": deep}), {"empty", "nested_too_deep", "malformed"}),
        "deep.html": (b"<div>" * 100_000 + b"words", {"timeout"}),
        "deep.json": (b"[" * 1_000_000, set()),
        "deep.eml": (
            b"Subject: deep\nMIME-Version: 1.0\n"
            + b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(2_000)),
            {"nested_too_deep", "malformed", "timeout"},
        ),
        "claims.pdf": (huge_claim, set()),
        "locked.pdf": (
            pdf().replace(b"/Root 1 0 R", b"/Root 1 0 R /Encrypt << /Filter /Standard /V 1 /R 2 /O <0> /U <0> >>"),
            {"encrypted", "malformed"},
        ),
        "scan.pdf": (pdf(("",)), {"empty"}),
        "both.pdf": (b"%PDF-1.4 not really\nPK\x03\x04<html>", {"malformed"}),
        "polyglot.pdf": (pdf() + zipped({"a.txt": "hidden words"}), set()),
        "wide.csv": (b",".join(b"c%d" % n for n in range(50_000)) + b"\n1,2\n", set()),
        "quotes.csv": (b'a,b\n"' + b"x" * 3_000_000, {"malformed"}),
        "utf16.txt": ("words in sixteen bits".encode("utf-16"), set()),
        "latin.txt": ("Über die Brücke, naïve Gäste.".encode("latin-1"), set()),
        "regex.srt": (b"00:00:01,000 --> " * 50_000, {"malformed", "empty"}),
        "regex.md": (b"[" * 200_000 + b"](" * 1_000, set()),
        "yaml.md": (b"---\na: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n---\n# Words\n", set()),
        "nested.yaml.md": (b"---\n" + b"[" * 15_000 + b"\n---\nwords", set()),
    }  # fmt: skip


@pytest.mark.usefixtures("patient")
def test_hand_made_hostile_files(make: Make, tmp_path: Path) -> None:
    files = hand_made(make)
    for name, (data, _) in files.items():
        (tmp_path / name).write_bytes(data)
    reasons, documents, peak = outcome(tmp_path, Limits(parser_seconds=6))
    found: dict[str, set[str]] = {name: set() for name in files}
    for key, reason in reasons.items():
        found[key.split("/")[0]].add(reason)
    wrong = {
        name: (found[name], right)
        for name, (_, right) in files.items()
        if not (found[name] and found[name] <= right) and not (not right and name in documents and not found[name])
    }
    assert wrong == {}
    assert not any("evil" in name or "passwd" in name for name in documents)
    assert peak < GIB


def test_a_parser_that_takes_too_long_or_too_much_is_ended(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "".join(f"<row><c t='str'><v>{n} words</v></c></row>" for n in range(400_000))
    s = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    r = 'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
    book = make["zipped"](
        {
            "xl/workbook.xml": f'<workbook {s} {r}><sheets><sheet name="S" r:id="a"/></sheets></workbook>',
            "xl/_rels/workbook.xml.rels": '<R><Relationship Id="a" Target="s.xml"/></R>',
            "xl/s.xml": f"<worksheet {s}>{rows}</worksheet>",
        }
    )
    (tmp_path / "book.xlsx").write_bytes(book)
    assert outcome(tmp_path, Limits(parser_seconds=0.3))[0] == {"book.xlsx": "timeout"}
    monkeypatch.setattr(sandbox_module, "GRACE_S", 600.0)
    assert outcome(tmp_path, Limits(parser_memory_bytes=300 << 20))[0]["book.xlsx"] in ("memory", "crashed")


@pytest.mark.usefixtures("patient")
def test_a_dead_child_costs_one_file_only(samples: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "paper.pdf").write_bytes(samples["paper.pdf"])
    path = str(tmp_path / "paper.pdf")
    with Sandbox(Limits()) as sandbox:
        before = sandbox.parse(path, [], "paper.pdf")
        child = sandbox._child
        assert child is not None
        child.kill()
        with pytest.raises(Exception, match="killed"):
            sandbox.parse(path, [], "paper.pdf")
        assert sandbox.parse(path, [], "paper.pdf") == before


CONFINED = """
import os, socket, subprocess, sys, threading
from pathlib import Path
from jobs.indexing.confine import confine
confine(1 << 30)
tries = {
    "socket": lambda: socket.socket(),
    "pair": lambda: socket.socketpair(),
    "run": lambda: subprocess.run(["/bin/true"], check=True),
    "fork": lambda: os.fork() or os._exit(0),
    "write": lambda: open(sys.argv[1], "w"),
    "append": lambda: open(sys.argv[1], "a"),
    "create": lambda: open(sys.argv[1] + ".new", "x"),
    "remove": lambda: os.remove(sys.argv[1]),
    "rename": lambda: os.rename(sys.argv[1], sys.argv[1] + ".old"),
    "folder": lambda: os.mkdir(sys.argv[1] + ".d"),
    "kill": lambda: os.kill(os.getppid(), 0),
    "memory": lambda: bytearray(2 << 30),
}
for name, attempt in tries.items():
    try:
        attempt()
    except (OSError, MemoryError):
        continue
    print(name)
threading.Thread(target=print, args=("thread",)).start()
print("read" if Path(sys.argv[1]).read_text() == "kept" else "lost")
"""


def test_a_confined_process_reads_and_does_nothing_else(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    done = subprocess.run(
        [sys.executable, "-c", CONFINED, str(victim)],
        capture_output=True, text=True, check=True, timeout=600, env={"PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert sorted(done.stdout.split()) == ["read", "thread"]
    assert victim.read_text() == "kept"


def test_a_large_parent_does_not_wear_its_children_out(samples: dict[str, bytes], tmp_path: Path) -> None:
    """A child's memory is its own: a worker that holds much itself keeps one child for many files."""
    (tmp_path / "paper.pdf").write_bytes(samples["paper.pdf"])
    path = str(tmp_path / "paper.pdf")
    held = b"x" * (700 << 20)
    with Sandbox(Limits()) as sandbox:
        sandbox.parse(path, [], "paper.pdf")
        child = sandbox._child
        sandbox.parse(path, [], "paper.pdf")
        assert child is not None
        assert sandbox._child is child
        assert sandbox.peak_bytes < len(held)
