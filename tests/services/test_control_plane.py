"""The control plane as an entry point opens it: SQLite and secrets below the data dir, or what the settings say."""

from __future__ import annotations

import stat
from pathlib import Path

from services.control_plane import open_control_plane, operator_key
from services.settings import Settings


def test_a_data_dir_gets_its_database_and_secrets(tmp_path: Path):
    settings = Settings(data_dir=str(tmp_path / "data"))
    store = open_control_plane(settings)
    plain, _ = store.add_key(store.create_tenant("acme"), "query")
    store.close()
    again = open_control_plane(settings)
    assert again.authenticate(plain).tenant.name == "acme"
    again.close()
    assert (tmp_path / "data" / "control.db").exists()
    assert stat.S_IMODE((tmp_path / "data" / "secrets" / "pepper").stat().st_mode) == 0o600


def test_the_operators_key_is_made_once_unless_it_is_set(tmp_path: Path):
    settings = Settings(data_dir=str(tmp_path))
    assert operator_key(settings) == operator_key(settings)
    assert operator_key(Settings(data_dir=str(tmp_path), admin_key="chosen")) == "chosen"


def test_a_pepper_from_the_settings_leaves_no_file(tmp_path: Path):
    open_control_plane(Settings(data_dir=str(tmp_path), pepper="shared by every node")).close()
    assert not (tmp_path / "secrets" / "pepper").exists()
