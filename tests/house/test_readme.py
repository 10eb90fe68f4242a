"""The README's tree is the tree, and the docs' links lead somewhere."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def load_tree():
    spec = importlib.util.spec_from_file_location("readme_tree", Path(__file__).with_name("readme_tree.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_s_tree_is_the_tree():
    maker = load_tree()
    written = maker.BLOCK.search((ROOT / "README.md").read_text(encoding="utf-8"))[2]
    assert written == maker.tree(), "run python tests/house/readme_tree.py --write"


def test_every_module_says_what_it_is_for():
    maker = load_tree()
    files = [path for room in maker.ROOMS for path in (ROOT / room).rglob("*.py") if "versions" not in path.parts]
    assert [str(path) for path in files if not maker.says(path)] == []


def test_every_relative_link_of_the_docs_leads_somewhere():
    broken = []
    for page in [ROOT / "README.md", ROOT / "cluster" / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []
