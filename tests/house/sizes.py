"""The house's sizes, checked: function median ≤ 12 lines, 90th percentile ≤ 35, maximum 60; file maximum 400;
`__init__.py` holds a docstring and nothing else; no room for leftovers (`utils`, `helpers`, `misc`, `manager`).

    python tests/house/sizes.py

A function's lines are those of its statement without decorators, docstring included: what a reader scrolls past.
"""

import ast
import statistics
import sys
from pathlib import Path

ROOMS = ("tenants", "services", "jobs", "cluster", "benchmarks")
FUNCTION_MEDIAN, FUNCTION_P90, FUNCTION_MAX, FILE_MAX = 12, 35, 60, 400
BANNED = {"utils", "util", "helpers", "helper", "misc", "manager", "common", "core"}


def python_files(root: Path) -> list[Path]:
    return sorted(path for room in ROOMS for path in (root / room).rglob("*.py"))


def functions(path: Path) -> list[tuple[str, int]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [(f"{path}:{node.lineno} {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1) for node in found]


def faults(root: Path) -> list[str]:
    files = python_files(root)
    sizes = [(where, lines) for path in files for where, lines in functions(path)]
    lengths = sorted(lines for _, lines in sizes)
    median = statistics.median(lengths)
    p90 = lengths[int(0.9 * (len(lengths) - 1))]
    found = [f"{where} has {lines} lines, at most {FUNCTION_MAX}" for where, lines in sizes if lines > FUNCTION_MAX]
    if median > FUNCTION_MEDIAN:
        found.append(f"the median function has {median:g} lines, at most {FUNCTION_MEDIAN}")
    if p90 > FUNCTION_P90:
        found.append(f"the 90th percentile of functions has {p90} lines, at most {FUNCTION_P90}")
    return found + [fault for path in files for fault in file_faults(path)]


def file_faults(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    found = [f"{path} has {lines} lines, at most {FILE_MAX}"] if lines > FILE_MAX else []
    if path.name == "__init__.py" and not only_docstring(text):
        found.append(f"{path} holds more than a docstring")
    if BANNED & {path.stem, path.parent.name}:
        found.append(f"{path}: name it by what it does, not {path.stem}")
    return found


def only_docstring(text: str) -> bool:
    body = ast.parse(text).body
    return len(body) == 1 and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)


def main() -> int:
    root = Path(__file__).resolve().parents[2]
    found = faults(root)
    sys.stdout.write("\n".join([*found, f"sizes: {len(found)} faults in {len(python_files(root))} files"]) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
