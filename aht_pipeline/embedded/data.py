"""Making the data of a new server: where its user can reach them, and whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import IO

from aht_pipeline.embedded.place import Place, State, delete, sync, write_private
from aht_pipeline.embedded.programs import Account, binaries_for, run_logged

SUPERUSER = "aht"

_PLACES_FOR_ROOT = Path("/var/lib/aht-pipeline")
_SETTINGS = ("shared_buffers=256MB", "max_connections=100", "timezone=UTC", "log_timezone=UTC")


def make_data(place: Place, log: IO[bytes], say: Callable[[str], None]) -> None:
    """Make an empty server beside its final place and move it there whole, so that a crash half-way leaves no half."""
    if place.state_file.exists():
        say(f"there are no data in {place.data}: making an empty embedded Postgres server")
    account = Account.for_new_data()
    _choose_where_data_lie(place, account, say)
    staging = place.data.parent / "new"
    delete(staging)
    staging.mkdir(mode=0o700)
    try:
        state = State(secrets.token_urlsafe(24))
        password_file = staging / "password"
        write_private(password_file, state.password.encode())
        account.take(password_file)
        account.take(staging)
        initdb = [str(binaries_for(account, place.data.parent) / "initdb"), f"--username={SUPERUSER}"]
        initdb += [f"--pwfile={password_file}", "--auth=scram-sha-256", "--encoding=UTF8", "--no-instructions"]
        initdb += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        initdb += [f"--set={setting}" for setting in _SETTINGS]  # into postgresql.conf, where they can be changed
        run_logged(place, initdb, staging / "data", account, log)
        place.write_state(state)
        (staging / "data").rename(place.data)
        sync(place.data.parent)
    finally:
        delete(staging)


def delete_data(place: Place) -> None:
    """Delete the data with whatever lies beside them for their sake; a home without data is no error."""
    delete(place.data.parent if place.data.parent.parent == _PLACES_FOR_ROOT.resolve() else place.data)


def _choose_where_data_lie(place: Place, account: Account, say: Callable[[str], None]) -> None:
    """In the place itself if the server's user can enter it, else below /var/lib, in a directory of no other home."""
    link = place.directory / "data"
    if not link.is_symlink():
        if account.can('cd "$0"', place.directory):
            return
        link.symlink_to(_unused_place_for_root(place) / "data")
    if not _PLACES_FOR_ROOT.exists():
        _PLACES_FOR_ROOT.mkdir(parents=True)
        _PLACES_FOR_ROOT.chmod(0o711)  # whatever the umask, the server's user must pass through
    place.data.parent.mkdir(mode=0o700, exist_ok=True)
    account.take(place.data.parent)
    say(
        f"the embedded Postgres server, which does not run as root, cannot enter {place.directory}: "
        f"its data lie in {place.data.parent}"
    )


def _unused_place_for_root(place: Place) -> Path:
    name = hashlib.sha256(os.fsencode(place.directory.parent)).hexdigest()[:16]
    # A home that was deleted or moved has left its data there.
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(path for path in map(_PLACES_FOR_ROOT.joinpath, names) if not path.exists())
