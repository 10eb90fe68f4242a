"""docs/GUARANTEES.md: every promise stands beside a test that exists."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def promised_tests() -> list[str]:
    text = (ROOT / "docs" / "GUARANTEES.md").read_text(encoding="utf-8")
    return re.findall(r"`(tests/[\w/]+\.py::\w+)`", text)


def rows() -> list[str]:
    text = (ROOT / "docs" / "GUARANTEES.md").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.startswith("| ") and line != "| promise | test |"]


def defined(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_promise_names_a_test():
    assert [row for row in rows() if not re.search(r"`tests/[\w/]+\.py::\w+`", row)] == []
    assert len(rows()) >= 15


def test_every_named_test_exists():
    missing = []
    for name in promised_tests():
        path, _, function = name.partition("::")
        if not (ROOT / path).is_file() or function not in defined(ROOT / path):
            missing.append(name)
    assert missing == []
