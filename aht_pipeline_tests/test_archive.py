"""The archive: what was kept comes back as it was or not at all, on a folder and on an object store alike."""

from __future__ import annotations

import hashlib
import random
import shutil
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import boto3  # type: ignore[import-untyped]
import msgspec
import pytest
from moto.server import ThreadedMotoServer

from aht_pipeline.archive import Archive, ArchiveError, StoredPull
from aht_pipeline.days import Day
from aht_pipeline.errors import SettingsError
from aht_pipeline.source import DayPull

CHECKOUT = Path(__file__).parents[1]
DAY = Day(date(2026, 11, 23), "UTC")
PULL = DayPull(
    account_id="12345678",
    day=DAY,
    pulled_at=datetime(2026, 11, 24, 3, 15, 0, 123456, tzinfo=UTC),
    reported=3,
    rows=3,
    content_sha256="c0ffee",
    requests=2,
    retries=1,
)
PAGES = [b'{"segments": [{"segmentId": "a\xc3\xa9\\n"}], "pagination": {"count": 3}}', b'{"segments":[]}']


class Place(Protocol):
    """The archive's place, looked at from outside."""

    url: str

    def names(self) -> list[str]: ...
    def read(self, key: str) -> bytes: ...
    def write(self, key: str, body: bytes) -> None: ...
    def remove(self, key: str) -> None: ...


class Folder:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def names(self) -> list[str]:
        return sorted(str(file.relative_to(self.root)) for file in self.root.rglob("*") if file.is_file())

    def read(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def write(self, key: str, body: bytes) -> None:
        (self.root / key).parent.mkdir(parents=True, exist_ok=True)
        (self.root / key).write_bytes(body)

    def remove(self, key: str) -> None:
        (self.root / key).unlink()


class Bucket:
    def __init__(self) -> None:
        self.name = f"bucket-{uuid4().hex}"
        self.url = f"s3://{self.name}/some/prefix"
        self.s3: Any = boto3.client("s3")
        self.s3.create_bucket(Bucket=self.name)

    def names(self) -> list[str]:
        listed = self.s3.list_objects_v2(Bucket=self.name).get("Contents", [])
        return sorted(entry["Key"].removeprefix("some/prefix/") for entry in listed)

    def read(self, key: str) -> bytes:
        body: bytes = self.s3.get_object(Bucket=self.name, Key=f"some/prefix/{key}")["Body"].read()
        return body

    def write(self, key: str, body: bytes) -> None:
        self.s3.put_object(Bucket=self.name, Key=f"some/prefix/{key}", Body=body)

    def remove(self, key: str) -> None:
        self.s3.delete_object(Bucket=self.name, Key=f"some/prefix/{key}")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-example")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-example")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return Folder(tmp_path / "archive")
    request.getfixturevalue("s3")
    return Bucket()


@pytest.fixture
def archive(place: Place) -> Archive:
    return Archive(place.url)


def keep(archive: Archive, pull: DayPull = PULL, pages: list[bytes] = PAGES) -> StoredPull:
    with archive.draft() as draft:
        for page in pages:
            draft.write(page)
        return archive.keep(draft, pull)


def later(pull: DayPull = PULL, content_sha256: str = "c0ffee", rows: int = 3) -> DayPull:
    return replace(pull, pulled_at=pull.pulled_at + timedelta(hours=24), content_sha256=content_sha256, rows=rows)


def manifest_of(stored: StoredPull) -> str:
    return stored.file.replace(".jsonl.zst", ".manifest.json")


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that do not compress, without a line end."""
    return random.Random(seed).randbytes(size).replace(b"\n", b"_").replace(b"\r", b"_")


def test_pages_come_back_exactly_as_they_came(archive: Archive) -> None:
    stored = keep(archive)
    assert list(archive.pages(stored)) == PAGES


def test_the_latest_pull_is_the_one_that_was_kept(archive: Archive) -> None:
    stored = keep(archive)
    assert stored.kept
    assert archive.latest("12345678", DAY) == stored
    assert stored.pull == PULL


def test_another_process_finds_what_was_kept(place: Place) -> None:
    stored = keep(Archive(place.url))
    again = Archive(place.url)
    assert again.latest("12345678", DAY) == stored
    assert list(again.pages(stored)) == PAGES


def test_files_are_named_by_account_day_time_and_content(place: Place, archive: Archive) -> None:
    stored = keep(archive)
    stem = f"account=12345678/day=2026-11-23/20261124T031500.123456Z_{stored.sha256[:16]}"
    assert place.names() == [f"{stem}.jsonl.zst", f"{stem}.manifest.json"]
    assert stored.file == f"{stem}.jsonl.zst"


def test_the_sha256_is_that_of_the_stored_file(place: Place, archive: Archive) -> None:
    stored = keep(archive)
    body = place.read(stored.file)
    manifest = msgspec.json.decode(place.read(manifest_of(stored)))
    assert hashlib.sha256(body).hexdigest() == stored.sha256 == manifest["sha256"]
    assert len(body) == stored.size_bytes == manifest["size_bytes"]


def test_the_manifest_says_what_was_pulled(place: Place, archive: Archive) -> None:
    stored = keep(archive)
    assert msgspec.json.decode(place.read(manifest_of(stored))) == {
        "format": 1,
        "pull": {
            "account_id": "12345678",
            "day": {"date": "2026-11-23", "timezone": "UTC"},
            "pulled_at": "2026-11-24T03:15:00.123456Z",
            "reported": 3,
            "rows": 3,
            "content_sha256": "c0ffee",
            "requests": 2,
            "retries": 1,
        },
        "window": {"start": "2026-11-23T00:00:00Z", "end": "2026-11-24T00:00:00Z"},
        "file": stored.file,
        "sha256": stored.sha256,
        "size_bytes": stored.size_bytes,
    }


def test_a_pretty_printed_page_is_one_line_of_the_same_json(archive: Archive) -> None:
    stored = keep(archive, pages=[b'{\r\n  "segments": [],\n  "x": "a\\nb"\n}', b"{}"])
    assert list(archive.pages(stored)) == [b'{    "segments": [],   "x": "a\\nb" }', b"{}"]


def test_a_rewound_walk_is_forgotten(archive: Archive) -> None:
    with archive.draft() as draft:
        draft.write(b"{1}")
        mark = draft.mark()
        draft.write(noise(300_000))
        draft.rewind(mark)
        draft.write(b"{2}")
        inner = draft.mark()
        draft.write(b"{lost}")
        draft.mark()
        draft.write(noise(300_000))
        draft.rewind(inner)
        draft.rewind(inner)
        draft.write(b"{3}")
        stored = archive.keep(draft, PULL)
    assert list(archive.pages(stored)) == [b"{1}", b"{2}", b"{3}"]


def test_a_draft_rewound_to_its_start_is_empty(archive: Archive) -> None:
    with archive.draft() as draft:
        start = draft.mark()
        draft.write(b"{lost}")
        draft.rewind(start)
        stored = archive.keep(draft, PULL)
    assert list(archive.pages(stored)) == []


@pytest.mark.skipif(shutil.which("zstd") is None, reason="there is no zstd command here")
def test_the_zstd_command_reads_a_file_of_several_frames(tmp_path: Path) -> None:
    archive = Archive(str(tmp_path))
    with archive.draft() as draft:
        for page in (b"{1}", b"{2}", b"{3}"):
            draft.write(page)
            draft.mark()
        stored = archive.keep(draft, PULL)
    unpacked = subprocess.run(["zstd", "-dc", tmp_path / stored.file], capture_output=True, check=True).stdout
    assert unpacked == b"{1}\n{2}\n{3}\n"
    assert list(archive.pages(stored)) == [b"{1}", b"{2}", b"{3}"]


def test_a_pull_with_equal_segments_is_not_stored_again(place: Place, archive: Archive) -> None:
    first = keep(archive)
    before = {key: place.read(key) for key in place.names()}
    again = keep(archive, later(rows=4), pages=[b'{"the same segments": "paged otherwise"}'])
    assert {key: place.read(key) for key in place.names()} == before
    assert not again.kept
    assert (again.file, again.sha256, again.size_bytes) == (first.file, first.sha256, first.size_bytes)
    assert again.pull.pulled_at == later().pulled_at
    assert again.pull.rows == first.pull.rows
    assert list(archive.pages(again)) == PAGES


def test_a_changed_pull_is_stored_beside_the_earlier_one(place: Place, archive: Archive) -> None:
    first = keep(archive)
    second = keep(archive, later(content_sha256="decaf"), pages=[b"{changed}"])
    assert second.kept
    assert len(place.names()) == 4
    assert archive.latest("12345678", DAY) == second
    assert list(archive.pages(first)) == PAGES
    assert list(archive.pages(second)) == [b"{changed}"]


def test_a_pull_that_went_back_to_older_segments_is_stored(archive: Archive) -> None:
    keep(archive)
    keep(archive, later(content_sha256="decaf"))
    third = keep(archive, later(later()))
    assert third.kept
    assert archive.latest("12345678", DAY) == third


@pytest.mark.parametrize("left", [None, b"cut off"])
def test_a_kept_file_that_was_lost_is_replaced_by_an_equal_pull(
    place: Place, archive: Archive, left: bytes | None
) -> None:
    first = keep(archive)
    place.remove(first.file)
    if left is not None:
        place.write(first.file, left)
    again = keep(archive, later())
    assert again.kept
    assert archive.latest("12345678", DAY) == again
    assert list(archive.pages(again)) == PAGES


def test_the_latest_is_the_newest_pull_in_whatever_order_they_were_kept(archive: Archive) -> None:
    newest = keep(archive, later(content_sha256="decaf"))
    keep(archive)
    assert archive.latest("12345678", DAY) == newest


def test_pages_without_a_manifest_are_no_pull(place: Place, archive: Archive) -> None:
    first = keep(archive)
    second = keep(archive, later(content_sha256="decaf"))
    place.remove(manifest_of(second))
    assert archive.latest("12345678", DAY) == first
    place.remove(manifest_of(first))
    assert archive.latest("12345678", DAY) is None


def test_a_crash_between_pages_and_manifest_does_not_hinder_the_same_pull(place: Place, archive: Archive) -> None:
    first = keep(archive)
    place.remove(manifest_of(first))
    assert keep(archive) == first
    assert archive.latest("12345678", DAY) == first


def test_a_manifest_is_never_overwritten(place: Place, archive: Archive) -> None:
    stored = keep(archive)
    keep(archive, later(content_sha256="decaf"), pages=[b"{other}"])
    manifest = place.read(manifest_of(stored))
    with pytest.raises(ArchiveError, match="already exists"):
        keep(archive, replace(PULL, requests=99))
    assert place.read(manifest_of(stored)) == manifest


def test_days_and_accounts_are_kept_apart(archive: Archive) -> None:
    stored = keep(archive)
    other = keep(archive, replace(PULL, account_id="123456789"), pages=[b"{other}"])
    next_day = Day(date(2026, 11, 24), "UTC")
    assert archive.latest("12345678", DAY) == stored
    assert archive.latest("123456789", DAY) == other
    assert archive.latest("12345678", next_day) is None
    assert archive.latest("1234567", DAY) is None


def test_a_day_of_another_time_zone_is_refused(archive: Archive) -> None:
    stored = keep(archive)
    berlin = Day(DAY.date, "Europe/Berlin")
    with pytest.raises(ArchiveError, match="AHT_TIMEZONE=UTC") as refused:
        archive.latest("12345678", berlin)
    assert manifest_of(stored) in str(refused.value)
    with pytest.raises(ArchiveError, match="AHT_TIMEZONE=UTC"):
        keep(archive, replace(later(), day=berlin))


def test_another_name_of_the_same_window_is_the_same_day(archive: Archive) -> None:
    keep(archive)
    london = Day(DAY.date, "Europe/London")
    latest = archive.latest("12345678", london)
    assert latest is not None
    assert latest.pull.day == london


@pytest.mark.parametrize("left", [b"", b"{", b"[]", b"\xff\xfe"])
def test_an_unreadable_manifest_is_named_and_mended_by_the_next_pull(
    place: Place, archive: Archive, left: bytes
) -> None:
    stored = keep(archive)
    place.write(manifest_of(stored), left)
    with pytest.raises(ArchiveError) as refused:
        archive.latest("12345678", DAY)
    assert manifest_of(stored) in str(refused.value)
    mended = keep(archive, later())
    assert archive.latest("12345678", DAY) == mended


def test_a_manifest_of_a_later_format_is_refused(place: Place, archive: Archive) -> None:
    stored = keep(archive)
    place.write(manifest_of(stored), place.read(manifest_of(stored)).replace(b'"format": 1', b'"format": 2'))
    with pytest.raises(ArchiveError, match="format 2"):
        archive.latest("12345678", DAY)


def damage_flipped(body: bytes) -> bytes:
    return body[:100_000] + bytes([body[100_000] ^ 1]) + body[100_001:]


def damage_cut_off(body: bytes) -> bytes:
    return body[:150_000]


def damage_a_frame_short(body: bytes) -> bytes:
    return body[: body.rindex(b"\x28\xb5\x2f\xfd")]


def damage_longer(body: bytes) -> bytes:
    return body + b"more"


@pytest.mark.parametrize("damage", [damage_flipped, damage_cut_off, damage_a_frame_short, damage_longer])
def test_a_damaged_file_is_named(place: Place, archive: Archive, damage: Any) -> None:
    with archive.draft() as draft:
        draft.write(noise(200_000))
        draft.mark()
        draft.write(b"{last}")
        stored = archive.keep(draft, PULL)
    place.write(stored.file, damage(place.read(stored.file)))
    with pytest.raises(ArchiveError) as failed:
        list(archive.pages(stored))
    assert stored.file in str(failed.value)
    assert "damaged" in str(failed.value)


def test_a_missing_file_is_named(place: Place, archive: Archive) -> None:
    stored = keep(archive)
    place.remove(stored.file)
    with pytest.raises(ArchiveError) as failed:
        list(archive.pages(stored))
    assert stored.file in str(failed.value)


def test_a_pull_of_many_parts_comes_back_whole(place: Place, archive: Archive) -> None:
    pages = [noise(1_000_000, seed) for seed in range(12)]
    stored = keep(archive, pages=pages)
    assert list(archive.pages(stored)) == pages
    assert hashlib.sha256(place.read(stored.file)).hexdigest() == stored.sha256


def test_a_big_pull_is_never_held_in_memory(tmp_path: Path) -> None:
    archive, page = Archive(str(tmp_path)), noise(500_000)
    tracemalloc.start()
    try:
        with archive.draft() as draft:
            for _ in range(100):
                draft.write(page)
            stored = archive.keep(draft, PULL)
        assert sum(len(page) for page in archive.pages(stored)) == 50_000_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000


def test_threads_keep_and_read_different_days_at_once(archive: Archive) -> None:
    def keep_and_read(number: int) -> list[bytes]:
        day = Day(date(2026, 11, number), "UTC")
        pages = [noise(20_000, number), str(number).encode()]
        return list(archive.pages(keep(archive, replace(PULL, day=day), pages)))[1:]

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(keep_and_read, range(1, 13))) == [[str(number).encode()] for number in range(1, 13)]


KILLED_WHILE_KEEPING = """
import os, resource, signal, sys
from aht_pipeline.archive import Archive
from aht_pipeline_tests.test_archive import PULL
archive = Archive(sys.argv[1])
with archive.draft() as draft:
    draft.write(os.urandom(20_000_000).replace(b"\\n", b"_"))
    draft.mark()
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the kernel kills at the next byte past the limit
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000_000, 8_000_000))
    archive.keep(draft, PULL)
"""


def test_a_process_killed_while_keeping_leaves_no_pull_and_does_not_hinder_the_next(tmp_path: Path) -> None:
    place = Folder(tmp_path / "archive")
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_KEEPING, place.url], cwd=CHECKOUT, check=False)
    assert killed.returncode == -signal.SIGXFSZ
    assert [len(place.read(name)) > 0 for name in place.names()] == [True], "it was killed in the middle"
    archive = Archive(place.url)
    assert archive.latest("12345678", DAY) is None
    stored = keep(archive)
    assert archive.latest("12345678", DAY) == stored
    assert list(archive.pages(stored)) == PAGES


def test_opening_and_reading_create_nothing(tmp_path: Path) -> None:
    root = tmp_path / "not" / "there"
    archive = Archive(str(root))
    assert archive.latest("12345678", DAY) is None
    archive.check()
    with archive.draft() as draft:
        draft.write(b"{}")
    assert list(tmp_path.iterdir()) == []
    keep(archive)
    assert root.is_dir()


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_folder_is_a_path_or_a_file_url(tmp_path: Path, form: str) -> None:
    stored = keep(Archive(form.format(tmp_path / "archive")))
    assert (tmp_path / "archive" / stored.file).is_file()


def test_a_relative_folder_stays_where_it_was_when_the_process_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    archive = Archive("with space & more%20/archive")
    monkeypatch.chdir("/")
    stored = keep(archive)
    assert (tmp_path / "with space & more%20" / "archive" / stored.file).is_file()


def test_check_leaves_nothing_behind(place: Place, archive: Archive) -> None:
    keep(archive)
    before = place.names()
    assert place.url in archive.check()
    assert place.names() == before


def test_check_leaves_no_empty_folder(tmp_path: Path) -> None:
    Archive(str(tmp_path)).check()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["file", "file/archive"])
def test_check_says_that_the_place_is_no_folder(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    archive = Archive(str(tmp_path / below))
    with pytest.raises(ArchiveError, match="AHT_ARCHIVE_URL"):
        archive.check()
    with pytest.raises(ArchiveError, match="AHT_ARCHIVE_URL"):
        keep(archive)


def test_a_missing_bucket_is_told_by_every_use(s3: None) -> None:
    archive = Archive("s3://no-such-bucket/prefix")
    for use in (archive.check, lambda: keep(archive), lambda: archive.latest("12345678", DAY)):
        with pytest.raises(ArchiveError, match=r"s3://no-such-bucket/prefix.*NoSuchBucket.*AHT_ARCHIVE_URL"):
            use()


def test_an_unreachable_store_is_told_with_its_reason(s3: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(ArchiveError, match=r"127\.0\.0\.1:1.*Connection refused.*AHT_ARCHIVE_URL") as failed:
        Archive("s3://bucket").check()
    assert "\n" not in str(failed.value)


def test_no_secret_of_the_url_or_the_environment_is_told(s3: None) -> None:
    archive = Archive("s3://user-example:password-example@no-such-bucket/prefix?token=token-example#fragment-example")
    with pytest.raises(ArchiveError) as failed:
        archive.check()
    told = f"{failed.value} {archive} {archive!r}"
    assert "example" not in told


def test_plain_http_is_for_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://s3.example.test")
    with pytest.raises(SettingsError, match="AWS_ENDPOINT_URL"):
        Archive("s3://bucket/prefix")


@pytest.mark.parametrize("url", ["memory:///", "ftp://host/x", "https://user:password@host/x", "s3://", "s3:///x"])
def test_another_kind_of_url_is_refused_before_any_work(url: str) -> None:
    with pytest.raises(SettingsError, match="AHT_ARCHIVE_URL") as refused:
        Archive(url)
    assert "password" not in str(refused.value)


@pytest.mark.parametrize("account_id", ["", "a/b", "..%2f", "a b", "é"])
def test_an_account_id_that_cannot_name_a_folder_is_refused(tmp_path: Path, account_id: str) -> None:
    archive = Archive(str(tmp_path))
    with pytest.raises(ArchiveError, match="account id"):
        keep(archive, replace(PULL, account_id=account_id))
    assert list(tmp_path.iterdir()) == []
