"""The README's tree is the tree: every file it names exists, every module that exists is named."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("tenants", "services", "jobs", "cluster")


def tree_block() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.search(r"```text tree\n(.*?)```", text, re.DOTALL).group(1).splitlines()


def named_paths() -> set[str]:
    """Two spaces a level; a folder ends in `/`; the first word of a line is the name, the rest says what it is."""
    stack: list[str] = []
    found = set()
    for line in tree_block():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        stack = [*stack[:depth], name.rstrip("/")]
        found.add("/".join(stack) + ("/" if name.endswith("/") else ""))
    return found


def real_paths() -> set[str]:
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py") if path.name != "__init__.py"]
    kept = [path.relative_to(ROOT) for path in files if "versions" not in path.parts]
    return {str(path) for path in kept} | {f"{folder}/" for path in kept for folder in path.parents if folder.name}


def test_every_path_in_the_readme_exists():
    missing = [path for path in named_paths() if not (ROOT / path).exists()]
    assert missing == []


def test_every_module_is_in_the_readme():
    assert sorted(real_paths() - named_paths()) == []


def test_every_relative_link_of_the_docs_leads_somewhere():
    broken = []
    for page in [ROOT / "README.md", ROOT / "cluster" / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []
