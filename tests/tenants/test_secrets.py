"""Secret files: made once, unreadable for others, the same for all who start at once."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tenants.errors import Unavailable
from tenants.secrets import load_or_create_secret


def test_a_secret_is_made_once_with_mode_0600(tmp_path: Path):
    path = tmp_path / "secrets" / "pepper"
    first = load_or_create_secret(path)
    assert len(first) == 64
    assert load_or_create_secret(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [child.name for child in path.parent.iterdir()] == ["pepper"], "no draft is left"


def test_a_given_secret_is_used_and_a_prefix_kept(tmp_path: Path):
    given = tmp_path / "given"
    given.touch(mode=0o600)
    given.write_text("chosen by the operator\n")
    assert load_or_create_secret(given) == "chosen by the operator"
    assert load_or_create_secret(tmp_path / "made", prefix="fka_").startswith("fka_")


def test_concurrent_starts_agree_on_one_secret(tmp_path: Path):
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(lambda _: load_or_create_secret(tmp_path / "pepper"), range(64)))
    assert len(found) == 1


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path):
    path = tmp_path / "pepper"
    load_or_create_secret(path)
    path.chmod(0o644)
    with pytest.raises(Unavailable, match="chmod 600"):
        load_or_create_secret(path)


def test_an_empty_secret_is_refused(tmp_path: Path):
    path = tmp_path / "pepper"
    path.touch(mode=0o600)
    with pytest.raises(Unavailable, match="empty"):
        load_or_create_secret(path)


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="check its folder"):
        load_or_create_secret(tmp_path / "file" / "pepper")
