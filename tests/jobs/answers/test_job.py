"""A file of questions: answers are kept as they come, what was cut short goes on, what is wrong is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from jobs.answers.job import Ask, Row, answer_file, read_questions
from jobs.answers.output import AnswerFile
from services.settings import Settings
from tenants.errors import InFlight, InvalidInput
from tenants.scope import TenantScope
from tests import fakes
from tests.conftest import ROOT, CommandLine

SETTINGS = Settings(mlflow_tracking_uri="off")
ANSWER = {
    "grounded": "full",
    "generator": "extractive",
    "degraded": [],
    "citations": [{}],
    "usage": {"completion_tokens": 0},
    "timings_ms": {"total": 5.0},
}


def questions(folder: Path, count: int = 5) -> Path:
    path = folder / "questions.jsonl"
    rows = [{"_id": f"q{number}", "text": f"What is {number}?"} for number in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Asked:
    """An `Answering` that notes what it is asked, and fails on `q3` once. Suffices: the line has its own tests."""

    def __init__(self, fails: str = "", dies_after: int = 99) -> None:
        self.names: list[str] = []
        self.fails, self.dies_after = fails, dies_after

    def __call__(
        self, left: Sequence[tuple[str, str]], scope: TenantScope, settings: Settings, ask: Ask
    ) -> Iterator[Row]:
        for number, (name, _) in enumerate(left):
            if number == self.dies_after:
                raise KeyboardInterrupt
            self.names.append(name)
            if name == self.fails:
                yield {"_id": name, "error": {"code": "unavailable", "detail": "the retriever is away"}}
            else:
                yield {"_id": name, "answer": ANSWER}


@pytest.fixture
def scope(monkeypatch: pytest.MonkeyPatch) -> TenantScope:
    monkeypatch.setattr("jobs.answers.job.pinned", lambda scope: scope)  # the fake's release is pinned already
    return fakes.scope()


def test_what_was_cut_short_goes_on_where_it_ended(tmp_path: Path, scope: TenantScope) -> None:
    path, out = questions(tmp_path), tmp_path / "answers.jsonl"
    first = Asked(dies_after=2)
    with pytest.raises(KeyboardInterrupt):
        answer_file(path, out, scope, SETTINGS, Ask(), first)
    with out.open("ab") as torn:
        torn.write(b'{"_id": "q2", "_as')  # a line that a kill cut
    second = Asked()
    report = answer_file(path, out, scope, SETTINGS, Ask(), second)
    assert (first.names, second.names) == (["q0", "q1"], ["q2", "q3", "q4"])
    assert (report["earlier"], report["answered"], report["failed"]) == (2, 3, 0)
    assert [json.loads(line)["_id"] for line in out.read_text().splitlines()] == ["q0", "q1", "q2", "q3", "q4"]
    again = Asked()
    assert answer_file(path, out, scope, SETTINGS, Ask(), again)["answered"] == 0
    assert again.names == []


def test_answers_to_something_else_are_not_taken(tmp_path: Path, scope: TenantScope) -> None:
    path, out = questions(tmp_path), tmp_path / "answers.jsonl"
    answer_file(path, out, scope, SETTINGS, Ask(), Asked())
    with pytest.raises(InvalidInput, match="another file"):
        answer_file(path, out, scope, SETTINGS, Ask(generator="vllm"), Asked())
    path.write_text(path.read_text().replace("What is 3?", "What is 4?"))
    with pytest.raises(InvalidInput, match="another question q3"):
        answer_file(path, out, scope, SETTINGS, Ask(), Asked())


def test_a_question_that_fails_is_told_and_asked_again(tmp_path: Path, scope: TenantScope) -> None:
    path, out = questions(tmp_path), tmp_path / "answers.jsonl"
    report = answer_file(path, out, scope, SETTINGS, Ask(), Asked(fails="q3"))
    assert (report["answered"], report["failed"]) == (4, 1)
    assert report["errors"] == [{"_id": "q3", "code": "unavailable", "detail": "the retriever is away"}]
    retried = Asked()
    answer_file(path, out, scope, SETTINGS, Ask(), retried)
    assert retried.names == ["q3"]


def test_progress_counts_every_question(tmp_path: Path, scope: TenantScope) -> None:
    seen: list[tuple[int, int]] = []
    path = questions(tmp_path)
    answer_file(path, tmp_path / "a", scope, SETTINGS, Ask(), Asked("q1"), lambda _, done, of: seen.append((done, of)))
    assert seen == [(number, 5) for number in range(1, 6)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no question"),
        ('{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}\n', "twice"),
        ('{"_id": "a"}\n', "line 1"),
        ("not json\n", "line 1"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "q.jsonl").write_text(text)
    with pytest.raises(InvalidInput, match=told):
        read_questions(tmp_path / "q.jsonl")


def test_a_file_of_something_else_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n")
    with pytest.raises(InvalidInput, match="no answer of a job"):
        AnswerFile(path)
    assert path.read_text() == "my notes\n"


def test_two_jobs_do_not_write_one_file(tmp_path: Path) -> None:
    with AnswerFile(tmp_path / "a.jsonl"), pytest.raises(InFlight):
        AnswerFile(tmp_path / "a.jsonl")


@pytest.mark.cluster
def test_a_killed_job_on_real_documents_goes_on(tmp_path: Path) -> None:
    """`python -m jobs.answers` over Ray, killed in the middle, run again: every question has one answer."""
    cli = CommandLine(tmp_path / "data", {"FATHOM_MLFLOW_TRACKING_URI": "off"})
    documents = tmp_path / "documents"
    documents.mkdir()
    for number in range(8):
        (documents / f"{number}.md").write_text(f"# Valve {number}\n\nValve {number} opens at {number + 20} bar.\n")
    cli.ok("tenant", "create", "acme")
    cli.ok("index", "acme", str(documents))
    path, out = tmp_path / "questions.jsonl", tmp_path / "out.jsonl"
    rows = [{"_id": f"q{n}", "text": f"At which pressure does valve {n % 8} open?"} for n in range(160)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "jobs.answers", "--tenant", "acme", "--questions", str(path), "--out", str(out)]
    first = subprocess.Popen(
        [*command, "--rerank", "never"], env=cli.environment(), cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE
    )
    try:
        while not (out.exists() and out.read_bytes().count(b"\n")):
            assert first.poll() is None, first.communicate()
            time.sleep(0.05)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
    kept = out.read_bytes().count(b"\n")
    done = subprocess.run(
        [*command, "--rerank", "never", "--json"], env=cli.environment(), cwd=ROOT, capture_output=True, check=True
    )
    report = json.loads(done.stdout)
    assert report["earlier"] >= kept
    answered = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(row["_id"] for row in answered) == sorted(row["_id"] for row in rows)
    first_one = next(row for row in answered if row["_id"] == "q3")
    assert "23 bar" in first_one["answer"]
    assert first_one["citations"][0]["document_id"] == "3.md"
