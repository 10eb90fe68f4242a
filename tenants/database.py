"""One engine per process for SQLite or PostgreSQL: pragmas, pool, transactions, migrations, error translation.

SQLite runs in WAL with synchronous=FULL (a commit survives power loss), foreign keys on, and secure_delete
(what is deleted is overwritten). Writers take the write lock at BEGIN, so that two of them queue up instead of
failing half-way. The engine is made at first use in each process, never inherited over a fork.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TextIO

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, MetaData, Table, create_engine, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.exc import IntegrityError as ConstraintViolated
from sqlalchemy.exc import TimeoutError as PoolExhausted

from tenants.errors import IntegrityError, InvalidInput, Unavailable

logger = logging.getLogger("fathom.control")

MIGRATIONS = Path(__file__).with_name("migrations")
BUSY_TIMEOUT_MS = 10_000
POOL_SIZE, POOL_OVERFLOW, POOL_TIMEOUT_S = 8, 24, 10
CONNECT_TIMEOUT_S = 5
RECYCLE_S = 1_800
_MIGRATION_LOCK = 0x46_61_74_68_6F_6D  # "Fathom": PostgreSQL's advisory lock is named by a number
_PRAGMAS = ("synchronous=FULL", "foreign_keys=ON", "secure_delete=ON", f"busy_timeout={BUSY_TIMEOUT_MS}")


class Database:
    """Transactions over one database URL. Threads share it; a forked child makes its own engine."""

    def __init__(self, url: str) -> None:
        self.url = _checked(url)
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._pid = 0

    @property
    def is_sqlite(self) -> bool:
        """Whether this is the one-machine database."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def engine(self) -> Engine:
        """The engine of this process, made at first use."""
        with self._lock:
            if self._engine is None or self._pid != os.getpid():
                self._engine, self._pid = _new_engine(self.url), os.getpid()
            return self._engine

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A read transaction. Raises `Unavailable` when the database does not answer."""
        with translated(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A read transaction in which every statement sees the same moment. Raises as `reading` does."""
        # SQLite's transactions always do; PostgreSQL's by default see what was committed between two statements.
        options: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with translated(), self.engine.connect() as connection:
            yield connection if self.is_sqlite else connection.execution_options(**options)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A write transaction, committed at the end of the block and rolled back by any exception."""
        with translated(), self.engine.connect().execution_options(write=True) as connection, connection.begin():
            yield connection

    def insert(self, table: Table) -> Any:
        """An INSERT that knows `on_conflict_do_nothing` / `_do_update`, in this database's dialect."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def migrate(self) -> None:
        """Bring the schema to the newest revision; any number of processes may call this at once."""
        with self._migration_lock():
            if self.is_sqlite:
                self._write_ahead_log()
            with self.writing() as connection:
                if not self.is_sqlite:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
                command.upgrade(_alembic(connection), "head")

    def create(self, metadata: MetaData) -> None:
        """Make the tables of `metadata` that are missing; any number of processes may call this at once."""
        with self._migration_lock():
            if self.is_sqlite:
                self._write_ahead_log()
            with self.writing() as connection:
                if not self.is_sqlite:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
                metadata.create_all(connection)

    def forget(self) -> None:
        """After a deletion: empty SQLite's write-ahead log, which still holds the deleted rows."""
        if self.is_sqlite:
            with translated(), self.engine.connect() as connection:
                _driver(connection).execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Close this process's connections; the next use opens new ones."""
        with self._lock:
            if self._engine is not None:
                # Another process's sockets must not be spoken to: they are only let go.
                self._engine.dispose(close=self._pid == os.getpid())
            self._engine = None

    def _write_ahead_log(self) -> None:
        with translated(), self.engine.connect() as connection:
            _driver(connection).execute("PRAGMA journal_mode=WAL").fetchall()

    def _migration_lock(self) -> AbstractContextManager[None]:
        # Turning WAL on does not wait for other connections (it fails as busy), so starts queue at a file.
        path = self.url.database
        return _file_lock(Path(f"{path}.lock")) if self.is_sqlite and path else nullcontext()


@contextmanager
def translated() -> Iterator[None]:
    """SQLAlchemy's errors as ours; a broken constraint passes, its caller knows what it means."""
    try:
        yield
    except ConstraintViolated:
        raise
    except PoolExhausted:
        raise Unavailable("too many requests wait for the control plane's database", retry_after_s=1) from None
    except DBAPIError as error:
        # The driver's reason names hosts and accounts: it is for the operator's log, not for a caller.
        logger.warning("the control plane's database failed: %s", str(error.orig).strip())
        raise Unavailable(
            "the control plane's database does not answer; check FATHOM_DATABASE_URL and that its server runs",
            retry_after_s=1,
        ) from error
    except SQLAlchemyError as error:
        logger.exception("the control plane's database gave an unexpected answer")
        raise IntegrityError("the control plane's database gave an unexpected answer; run `fathom doctor`") from error


def _checked(raw: str) -> URL:
    try:
        url = make_url(raw)
    except ArgumentError:
        raise InvalidInput.field("/database_url", "write it as sqlite:///file or postgresql://user@host/name") from None
    backend = url.get_backend_name()
    if backend not in ("sqlite", "postgresql") or (backend == "sqlite" and url.database in (None, "", ":memory:")):
        raise InvalidInput.field("/database_url", "the control plane is sqlite:///file or postgresql://user@host/name")
    return url.set(drivername="postgresql+psycopg") if backend == "postgresql" else url


def _new_engine(url: URL) -> Engine:
    options: dict[str, Any] = {"pool_size": POOL_SIZE, "max_overflow": POOL_OVERFLOW, "pool_timeout": POOL_TIMEOUT_S}
    options["hide_parameters"] = True  # errors are logged, and the values in them are hashes and answers
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, **options, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
        event.listen(engine, "connect", _on_sqlite_connect)
        event.listen(engine, "begin", _on_sqlite_begin)
        return engine
    try:
        arguments = {"connect_timeout": CONNECT_TIMEOUT_S}
        return create_engine(url, **options, pool_pre_ping=True, pool_recycle=RECYCLE_S, connect_args=arguments)
    except (NoSuchModuleError, ModuleNotFoundError):
        raise Unavailable("PostgreSQL needs its driver: pip install -e '.[postgres]'") from None


def _on_sqlite_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves: the driver's own comes too late to lock
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _on_sqlite_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    with _opened(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _opened(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w")
    except OSError as error:
        raise Unavailable(f"the folder {path.parent} cannot be used: {error.strerror}; check the data dir") from None


def _alembic(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
