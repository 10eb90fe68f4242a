"""The house's sizes hold, and the check itself sees what it should."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def load_sizes():
    spec = importlib.util.spec_from_file_location("sizes", Path(__file__).with_name("sizes.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tree_keeps_the_sizes():
    assert load_sizes().faults(ROOT) == []


def test_a_long_function_a_long_file_and_a_loaded_init_are_faults(tmp_path):
    room = tmp_path / "tenants"
    room.mkdir()
    (room / "__init__.py").write_text('"""Rule."""\nimport os\n')
    body = "".join(f"    x = {number}\n" for number in range(60))
    (room / "long.py").write_text(f"def f():\n{body}")
    (room / "utils.py").write_text("x = 1\n" * 401)
    found = "\n".join(load_sizes().faults(tmp_path))
    for part in ("f has 61 lines", "utils.py has 401 lines", "holds more than a docstring", "name it by what it does"):
        assert part in found
