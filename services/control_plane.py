"""Opens the control plane that the settings name, with the platform's own secrets. For entry points."""

from __future__ import annotations

from pathlib import Path

from services.settings import Settings
from tenants.secrets import load_or_create_secret
from tenants.store import Store, open_store

ADMIN_KEY_FILE = "admin.key"
PEPPER_FILE = "pepper"


def open_control_plane(settings: Settings) -> Store:
    """The store with this platform's pepper; the schema is migrated and the data dir made where needed.

    Raises `Unavailable` when the database or a secret cannot be used.
    """
    Path(settings.data_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
    pepper = settings.pepper or load_or_create_secret(settings.secrets_dir / PEPPER_FILE)
    return open_store(settings.control_url, pepper=pepper.encode())


def operator_key(settings: Settings) -> str:
    """The platform's admin key: `FATHOM_ADMIN_KEY`, or the file that the first start makes."""
    return settings.admin_key or load_or_create_secret(settings.secrets_dir / ADMIN_KEY_FILE, prefix="fa_")
