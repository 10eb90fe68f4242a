"""The README's tree, made from the modules' own first sentences.

    python tests/house/readme_tree.py --write

Every module below the four rooms has a line; what it says is the module's docstring up to its first full stop,
cut at 100 characters.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("tenants", "services", "jobs", "cluster")
BLOCK = re.compile(r"(```text tree\n)(.*?)(```)", re.DOTALL)
WIDTH = 100
OTHERS = {
    "cluster": [
        ("serve.yaml", "the Serve config of a cluster"),
        ("serve-vllm.yaml", "the same with a vLLM generator"),
        ("rayservice.yaml", "the same on Kubernetes"),
        ("rayjob-indexing.yaml", "one indexing job on Kubernetes"),
        ("images/Dockerfile", "the image of both"),
        ("dashboards/fathom.json", "Grafana"),
        ("README.md", "how to run it elsewhere"),
    ]
}


def says(path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = re.split(r"(?<=[.;])\s|\n\n", doc, maxsplit=1)[0]
    line = " ".join(first.split()).rstrip(".:;")
    return line if len(line) <= WIDTH else line[: WIDTH - 1].rsplit(" ", 1)[0] + " …"


def lines(folder: Path, depth: int = 0) -> list[str]:
    indent = "  " * depth
    found = [f"{indent}{folder.name + '/':<{24 - len(indent)}} {says(folder / '__init__.py')}".rstrip()]
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        if path.is_dir() and (path / "__init__.py").exists() and path.name != "migrations":
            found += lines(path, depth + 1)
        elif path.suffix == ".py" and path.name != "__init__.py":
            found.append(f"{indent}  {path.name:<{22 - len(indent)}} {says(path)}")
    if depth == 0:
        found += [f"  {name:<22} {text}" for name, text in OTHERS.get(folder.name, [])]
    return found


def tree() -> str:
    return "".join(f"{line}\n" for room in ROOMS for line in lines(ROOT / room))


def main() -> int:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    if "--write" in sys.argv[1:]:
        readme.write_text(BLOCK.sub(lambda match: match[1] + tree() + match[3], text), encoding="utf-8")
        return 0
    sys.stdout.write(tree())
    return 0


if __name__ == "__main__":
    sys.exit(main())
