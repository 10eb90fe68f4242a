"""The examples of the docs, executed as they stand against a real platform.

A block marked ```bash exec or ```python exec runs; the bash blocks of one page share one shell, so that what one
sets the next finds. A block without the mark is for a cluster, for another machine, or shows output.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(bash|python) exec\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def script(page: Path, folder: Path) -> str:
    """One bash script of all blocks; a Python block becomes a file that the shell runs."""
    parts = ["set -euo pipefail"]
    for number, (language, text) in enumerate(blocks(page)):
        if language == "python":
            file = folder / f"example_{number}.py"
            file.write_text(text, encoding="utf-8")
            text = f"{sys.executable} {file}\n"
        parts.append(f"echo '--- example {number}'\n{text}")
    return "\n".join(parts)


def test_there_are_examples():
    assert sum(len(blocks(page)) for page in PAGES) >= 5


@pytest.mark.cluster
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(page, platform, tmp_path):
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    environment = {**platform.cli.environment(), "FATHOM_URL": platform.url}
    done = subprocess.run(
        ["bash", "-c", script(page, tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=800,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
