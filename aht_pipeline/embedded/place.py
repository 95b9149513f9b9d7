"""Where the parts of a home's server lie, and what the home remembers of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import filelock
import msgspec
import psycopg2

from aht_pipeline.errors import AhtError

_LOCK_SECONDS = 180  # longer than a start may take


class EmbeddedError(AhtError):
    """The embedded Postgres server cannot be made, started, reached or stopped; the text says why and what to do."""


class State(msgspec.Struct, frozen=True):
    """What the home remembers of its server. port: of the last start; None before the first."""

    password: str
    port: int | None = None


@dataclass(frozen=True)
class Place:
    """The directory of a home's server."""

    directory: Path

    @classmethod
    def of(cls, home: Path) -> Place:
        return cls(home.resolve() / "postgres")

    def make(self) -> None:
        if self.directory.exists():
            return
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        # The user to whom root hands the server must pass through; the files within have modes of their own.
        self.directory.mkdir(mode=0o711 if is_root() else 0o700, exist_ok=True)

    def lock(self) -> filelock.BaseFileLock:
        """Held while the server is made, started or stopped."""
        return filelock.FileLock(self.directory / "lock", timeout=_LOCK_SECONDS, mode=0o600)

    @property
    def data(self) -> Path:
        return (self.directory / "data").resolve()

    @property
    def has_data(self) -> bool:
        return (self.data / "PG_VERSION").exists()

    @property
    def cluster_name(self) -> str:
        """Names the data directory in the command line or title of each process of its server."""
        status = self.data.stat()
        return f"aht-{status.st_dev:x}-{status.st_ino:x}"

    @property
    def log(self) -> Path:
        return self.directory / "postgres.log"

    def open_log(self) -> IO[bytes]:
        return os.fdopen(os.open(self.log, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "ab+")

    @property
    def state_file(self) -> Path:
        return self.directory / "server.json"

    def read_state(self) -> State:
        try:
            return msgspec.json.decode(self.state_file.read_bytes(), type=State)
        except (FileNotFoundError, msgspec.DecodeError):
            raise EmbeddedError(
                f"{self.state_file}, which holds the password of the embedded Postgres server, is missing or damaged: "
                f"restore it, or move {self.directory} away to begin with an empty server"
            ) from None

    def write_state(self, state: State) -> None:
        new = self.state_file.with_suffix(".new")
        write_private(new, msgspec.json.encode(state))
        if is_root():  # who owns the home goes on owning its files after a start by root
            owner = self.directory.stat()
            os.chown(new, owner.st_uid, owner.st_gid)
        new.replace(self.state_file)
        sync(self.directory)


@contextmanager
def foreseen(place: Place) -> Iterator[None]:
    """Turn the failures of the system and of the server into an EmbeddedError."""
    what = f"the embedded Postgres server in {place.directory}"
    try:
        yield
    except filelock.Timeout:
        message = f"{what}: another process has been starting or stopping it for {_LOCK_SECONDS} s; try again"
        raise EmbeddedError(message) from None
    except OSError as error:
        advice = "Set AHT_HOME to a directory that this user can write and whose disk has space"
        raise EmbeddedError(f"{what} cannot be used: {error}. {advice}") from error
    except psycopg2.Error as error:
        raise EmbeddedError(f"{what} runs, but answers: {str(error).strip()}. See {place.log}") from error


def write_private(path: Path, content: bytes) -> None:
    """Write a file that its owner alone may read, and see it on the disk."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        os.fchmod(file.fileno(), 0o600)  # it may have been there
        file.write(content)
    sync(path)


def sync(path: Path) -> None:
    """See a file's content, or a directory's entries, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def delete(directory: Path) -> None:
    """Delete a directory with all that is in it, if it exists."""
    if directory.exists():
        shutil.rmtree(directory)


def is_root() -> bool:
    return os.geteuid() == 0
