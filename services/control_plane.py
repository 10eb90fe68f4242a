"""Opens the control plane that the settings name, with this platform's secrets. One call per process."""

from __future__ import annotations

from pathlib import Path

from services.settings import Settings
from tenants.secrets import load_or_create_secret
from tenants.store import Store, open_store


def open_control_plane(settings: Settings) -> Store:
    """The store, migrated. Raises `Unavailable` when its database does not answer or the pepper is another one."""
    return open_store(control_plane_url(settings), pepper=pepper(settings))


def control_plane_url(settings: Settings) -> str:
    """`database_url`, or SQLite in the data dir."""
    return settings.database_url or f"sqlite:///{Path(settings.data_dir).absolute()}/control.db"


def pepper(settings: Settings) -> bytes:
    """What keys are hashed with: the setting, or `secrets/pepper` in the data dir, made at first use."""
    return (settings.pepper or load_or_create_secret(secrets_dir(settings) / "pepper")).encode()


def admin_key(settings: Settings) -> str:
    """The operator's key: the setting, or `secrets/admin.key` in the data dir, made at first use."""
    return settings.admin_key or load_or_create_secret(secrets_dir(settings) / "admin.key", prefix="fka_")


def secrets_dir(settings: Settings) -> Path:
    """Where this platform's secret files lie."""
    return Path(settings.data_dir).absolute() / "secrets"
