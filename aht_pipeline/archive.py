"""Every pull as it came, append-only, in a folder or an object store: the API forgets after a month, this does not."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, Self
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import msgspec
import obstore
import zstandard
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, from_url

from aht_pipeline.clock import CLOCK_TOLERANCE
from aht_pipeline.credentials import is_loopback
from aht_pipeline.days import Day, Window
from aht_pipeline.draft import Draft
from aht_pipeline.errors import AhtError, SettingsError
from aht_pipeline.source import DayPull

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

_FORMAT = 1
_PAGES, _MANIFEST = ".jsonl.zst", ".manifest.json"
_SCHEMES = ("s3", "gs", "az")
_SAFE_ACCOUNT = re.compile(r"[A-Za-z0-9_.-]+")
_READ_BYTES = 4 * 1024 * 1024  # a request each: a stream of small pieces costs as much again as decompressing them
_DECOMPRESS_BYTES = 64 * 1024  # may become many times as many
_PART_BYTES, _PARTS_AT_ONCE = 5 * 1024 * 1024, 2

_RETRIES: RetryConfig = {
    "max_retries": 5,
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=10), "base": 2},
    "retry_timeout": timedelta(minutes=2),
}
_TIMEOUTS: ClientConfig = {
    "connect_timeout": timedelta(seconds=10),
    "read_timeout": timedelta(seconds=60),
    "timeout": timedelta(minutes=5),  # of a request, which carries a few megabytes
}


class ArchiveError(AhtError):
    """The archive cannot be read or written, or what it holds is not what was kept; the text names the file."""


class _UnreadableManifestError(ArchiveError):
    """The manifest is there but cannot be understood."""


@dataclass(frozen=True)
class StoredPull:
    """A pull whose segments are in the archive.

    pull: the facts of the pull, with `rows` as they are in the file.
    file: the key of its pages, relative to the archive's root.
    sha256, size_bytes: of the file as it is stored, compressed (what `sha256sum` prints).
    kept: whether the file holds the pages of this very pull; False where an equal pull had been kept before.
    """

    pull: DayPull
    file: str
    sha256: str
    size_bytes: int
    kept: bool


class Archive:
    """The pulls of all accounts and days, under `account=<id>/day=<YYYY-MM-DD>/`.

    A pull is two files, its pages `<pulled_at>_<hash>.jsonl.zst` (one line a page, exactly as the API sent it) and its
    manifest; it is there when its manifest is, which is written last. Nothing is ever changed or removed. Several
    threads and processes may use one archive at once; a process must not have used it before it forks.
    """

    def __init__(self, url: str) -> None:
        """`url`: a folder (a path or `file://`), or an object store: `s3://`, `gs://`, `az://`. Touches neither.

        An object store's credentials come from its ordinary variables (`AWS_ACCESS_KEY_ID`, ...), never from the URL.
        Raises SettingsError for another kind of URL, and for a plain http endpoint that is not on this machine.
        """
        parts = urlsplit(url)
        bucket = parts.netloc.rpartition("@")[2]
        self._folder: Path | None = None
        self._allow_http = False
        if "://" not in url:
            self._folder = Path(url).expanduser().absolute()
        elif parts.scheme == "file":
            self._folder = Path(unquote(parts.path)).absolute()
        elif parts.scheme not in _SCHEMES or not bucket:
            raise SettingsError(
                f"AHT_ARCHIVE_URL: {parts.scheme}://{bucket} is no archive; "
                "give a folder or s3://bucket/prefix, gs://bucket/prefix, az://container/prefix"
            )
        elif parts.scheme == "s3":
            self._allow_http = _endpoint_is_plain_http()
        self._url = f"{parts.scheme}://{bucket}{parts.path}"  # without user, password and query

    def __str__(self) -> str:
        return str(self._folder or self._url)

    def draft(self) -> Draft:
        """A place for the pages of a pull that is not proved yet; gone when it is closed."""
        return Draft()

    def keep(self, draft: Draft, pull: DayPull) -> StoredPull:
        """Store the draft whole, its manifest last; or nothing, where its segments equal the last kept pull's.

        Raises ArchiveError when the archive cannot be written, and where the day was kept in another time zone.
        """
        equal = self._kept_equal(pull)
        if equal:
            return replace(equal, pull=replace(pull, rows=equal.pull.rows), kept=False)
        pages, sha256, size_bytes = draft.finish()
        stem = f"{_folder_of(pull.account_id, pull.day)}/{_compact(pull.pulled_at)}_{sha256[:16]}"
        stored = StoredPull(pull, stem + _PAGES, sha256, size_bytes, kept=True)
        self._put(stored.file, pages)
        self._put(stem + _MANIFEST, _Manifest.of(stored).to_json(), mode="create")
        return stored

    def latest(self, account_id: str, day: Day, doubtful: Container[str] = ()) -> StoredPull | None:
        """The newest kept pull of the day, by `pulled_at`; None where there is none.

        One that is dated in the future, by a clock that was ahead, comes after all others, whatever it says.
        doubtful: files of pulls that are known to be dated so; that future may have come.

        Raises ArchiveError when its manifest cannot be read, and when it is of another time zone's day.
        """
        folder = _folder_of(account_id, day)
        future = f"{folder}/{_compact(_latest_credible())}"

        def recency(key: str) -> tuple[bool, str]:
            return key < future and key.removesuffix(_MANIFEST) + _PAGES not in doubtful, key

        newest = max(self._keys(folder, _MANIFEST), key=recency, default=None)
        if newest is None:
            return None
        with self._telling("read", newest):
            body = obstore.get(self._store, newest).bytes()
        try:
            manifest = msgspec.json.decode(body, type=_Manifest)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _UnreadableManifestError(
                f"the archive {self} holds a manifest that cannot be read, {newest}: {error}; "
                "remove it to use the pull before it, or load the day from the API again"
            ) from None
        if manifest.format != _FORMAT:
            raise _UnreadableManifestError(
                f"the archive {self} holds a manifest of format {manifest.format}, {newest}; "
                f"this aht_pipeline reads format {_FORMAT}: use the release that wrote it"
            )
        if manifest.window != day.window:
            zone = manifest.pull.day.timezone
            raise ArchiveError(
                f"the archive {self} holds {day} as a day of {zone} ({manifest.window}), not of {day.timezone} "
                f"({day.window}): {newest}; set AHT_TIMEZONE={zone}, or AHT_ARCHIVE_URL to a new place"
            )
        pull = replace(manifest.pull, account_id=account_id, day=day)
        return StoredPull(pull, manifest.file, manifest.sha256, manifest.size_bytes, kept=True)

    def pages(self, stored: StoredPull) -> Iterator[bytes]:
        """The pages of a kept pull, in order, read as they are asked for.

        Raises ArchiveError, naming the file, when it is missing or not what was kept. That may show at the end only,
        so no page counts before the last one was read.
        """
        digest = hashlib.sha256()

        def decompressed() -> Iterator[bytes]:
            frames = zstandard.ZstdDecompressor().decompressobj(read_across_frames=True)
            for start in range(0, stored.size_bytes, _READ_BYTES):
                length = min(_READ_BYTES, stored.size_bytes - start)
                piece = memoryview(obstore.get_range(self._store, stored.file, start=start, length=length))
                digest.update(piece)
                try:
                    for at in range(0, len(piece), _DECOMPRESS_BYTES):
                        yield frames.decompress(piece[at : at + _DECOMPRESS_BYTES])
                except zstandard.ZstdError as error:
                    raise self._damaged(stored, str(error)) from None

        with self._telling("read", stored.file):
            size_bytes = obstore.head(self._store, stored.file)["size"]
            if size_bytes != stored.size_bytes:
                raise self._damaged(stored, f"it has {size_bytes} bytes, not {stored.size_bytes}")
            yield from _lines(decompressed())
        if digest.hexdigest() != stored.sha256:
            raise self._damaged(stored, f"its sha256 is {digest.hexdigest()}, not {stored.sha256}")

    def check(self) -> str:
        """Try to write, read, list and remove, leaving nothing behind; says what the archive is.

        A folder that is not there yet is not made; whether it could be is looked at.
        """
        if self._folder and not self._folder.exists():
            with self._telling("make", "its folder"):
                parent = next(parent for parent in self._folder.parents if parent.exists())
            if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
                raise ArchiveError(
                    f"the archive {self} cannot be made: {parent} is no folder that can be written; {_FIX}"
                )
            return f"{self} (made by the first pull)"
        key, body = f"check/{uuid4().hex}", b"aht_pipeline"
        self._put(key, body)
        try:
            with self._telling("read", key):
                read = bytes(obstore.get(self._store, key).bytes())
            if read != body or self._keys("check", key) != [key]:
                raise ArchiveError(f"the archive {self} does not give back what was written to {key}; {_FIX}")
        finally:
            with self._telling("remove", key):
                obstore.delete(self._store, key)
        return f"{self} (can be read and written)"

    @cached_property
    def _store(self) -> ObjectStore:
        if self._folder:
            return LocalStore(self._folder, automatic_cleanup=True)  # of the folder that `check` made
        return from_url(self._url, retry_config=_RETRIES, client_options={**_TIMEOUTS, "allow_http": self._allow_http})

    def _kept_equal(self, pull: DayPull) -> StoredPull | None:
        """The last kept pull, where it has the same segments and its file is there whole."""
        try:
            latest = self.latest(pull.account_id, pull.day)
        except _UnreadableManifestError:
            return None  # the new pull mends it: it becomes the latest
        if latest is None or latest.pull.content_sha256 != pull.content_sha256:
            return None
        if latest.pull.pulled_at > _latest_credible():
            return None  # else nothing would show how new these segments are
        with self._telling("look at", latest.file):
            try:
                size_bytes = obstore.head(self._store, latest.file)["size"]
            except FileNotFoundError:
                return None
        return latest if size_bytes == latest.size_bytes else None

    def _keys(self, folder: str, ending: str) -> list[str]:
        if self._folder and not self._folder.exists():
            return []
        with self._telling("list", folder):
            listed = obstore.list(self._store, prefix=folder)
            return [entry["path"] for entries in listed for entry in entries if entry["path"].endswith(ending)]

    def _put(self, key: str, body: IO[bytes] | bytes, mode: Literal["create", "overwrite"] = "overwrite") -> None:
        """Store whole or not at all; on a folder it is on the disk when this returns."""
        with self._telling("write", key):
            if self._folder:
                self._folder.mkdir(parents=True, exist_ok=True)
            try:
                obstore.put(self._store, key, body, mode=mode, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE)
            except AlreadyExistsError:
                if bytes(obstore.get(self._store, key).bytes()) != body:  # equal: our own try, whose answer was lost
                    raise
            if self._folder:
                with (self._folder / key).open("rb") as file:
                    os.fsync(file.fileno())

    def _damaged(self, stored: StoredPull, what: str) -> ArchiveError:
        return ArchiveError(
            f"the archive {self} holds {stored.file} damaged or cut off: {what}; restore this file from a copy, or "
            "remove it together with its manifest and load the day from the API while it remembers it"
        )

    @contextmanager
    def _telling(self, verb: str, key: str) -> Iterator[None]:
        """Turn the store's errors into one that says what could not be done to what."""
        try:
            yield
        except (BaseError, OSError) as error:
            raise ArchiveError(f"cannot {verb} {key} in the archive {self}: {_cause(error)}; {_FIX}") from None


class _Manifest(msgspec.Struct, frozen=True):
    """What the manifest says, as JSON for people; its fields' names are the archive's format and stay as they are."""

    format: int
    pull: DayPull
    window: Window
    file: str
    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, stored: StoredPull) -> Self:
        return cls(_FORMAT, stored.pull, stored.pull.day.window, stored.file, stored.sha256, stored.size_bytes)

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


_FIX = "check AHT_ARCHIVE_URL and, for an object store, its credentials"


def _lines(texts: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a text that comes in pieces, each copied once; what follows the last line end is dropped."""
    begun: list[bytes] = []
    for text in texts:
        start = 0
        while (end := text.find(b"\n", start)) >= 0:
            begun.append(text[start:end])
            yield b"".join(begun)
            begun, start = [], end + 1
        begun.append(text[start:])


def _folder_of(account_id: str, day: Day) -> str:
    if not _SAFE_ACCOUNT.fullmatch(account_id):
        raise ArchiveError(
            f"the account id {account_id!r} cannot name a folder of the archive: letters, digits, `_`, `.` and `-` can"
        )
    return f"account={account_id}/day={day}"


def _compact(moment: datetime) -> str:
    """A time in UTC whose order as text is its order in time: 20261124T031500.123456Z."""
    return moment.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")


def _latest_credible() -> datetime:
    """A pull that is dated later is dated by a clock that was ahead. (Ours is compared with others before a load.)"""
    return datetime.now(UTC) + CLOCK_TOLERANCE


def _endpoint_is_plain_http() -> bool:
    """Whether S3 is served over plain http on this machine. Raises SettingsError for plain http to another."""
    plain = False
    for variable in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        endpoint = urlsplit(os.environ.get(variable, ""))
        if endpoint.scheme == "http":
            if not is_loopback(endpoint.hostname):
                raise SettingsError(f"{variable}: plain http is for a loopback host only; use https")
            plain = True
    return plain


def _cause(error: Exception) -> str:
    """The store's own words without its debug text and the answer's body, which may repeat parts of the credentials."""
    words, _, debug = str(error).partition("\n\nDebug source:")
    said, _, body = words.partition(" <")
    details = re.findall(r"<(?:Code|Message)>([^<]*)<", body) or re.findall(r'\bmessage: "([^"]*)"', debug)
    return ": ".join([said.rstrip(": "), *(detail for detail in details if detail not in said)])
