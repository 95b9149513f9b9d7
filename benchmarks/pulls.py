"""Pulls made of a pull in the archive: the same segments under other ids, or a part of them restated."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec

from aht_pipeline.archive import Archive, StoredPull
from aht_pipeline.credentials import ClientCredentialKeys
from aht_pipeline.days import Day
from aht_pipeline.pipeline import Pipeline
from aht_pipeline.source import AhtApi
from aht_pipeline.warehouse import engine
from benchmarks.api import Api

_Row = dict[str, Any]


@contextmanager
def open_pipeline(api: Api, archive: Path, warehouse_url: str, concurrency: int = 4) -> Iterator[Pipeline]:
    """The pipeline in this process, without Dagster: the steps of a day, one by one."""
    keys = ClientCredentialKeys(api.variables["LIVEPERSON_CLIENT_ID"], api.variables["LIVEPERSON_CLIENT_SECRET"])
    pipeline = Pipeline(
        account_id=api.account,
        archive=Archive(str(archive)),
        warehouse=engine(warehouse_url),
        connect=lambda: AhtApi(api.account, keys, api_url=api.url, concurrency=concurrency),
        max_rejected_percent=5,
    )
    try:
        yield pipeline
    finally:
        pipeline.close()


def pull(pipeline: Pipeline, day: date) -> StoredPull:
    return pipeline.pull(Day(day, "UTC"))


def with_other_ids(archive: Archive, stored: StoredPull) -> StoredPull:
    """As many segments, of the same agents, in conversations that were never seen: the first pull of a new account.

    The ids begin as before, so that they fall among those that are in the table already.
    """

    def renew(_: int, row: _Row) -> None:
        prefix = ":".join(row["segmentId"].split(":")[:2])
        row["conversationId"] = str(uuid.uuid4())
        row["segmentId"] = f"{prefix}:{row['conversationId']}:{secrets.token_urlsafe(16)}"

    return _changed(archive, stored, f"other-{uuid.uuid4().hex}", renew)


def restated(archive: Archive, stored: StoredPull, every: int) -> StoredPull:
    """A later pull of the same segments; every so many-th of them has another handle time."""

    def restate(number: int, row: _Row) -> None:
        if number % every == 0:
            row["totalHandleTimeMillis"] += 1

    return _changed(archive, stored, stored.pull.account_id, restate)


def read_again(stored: StoredPull) -> StoredPull:
    """A later pull that met the same segments: the archive answers it with the one it has."""
    return replace(stored, pull=replace(stored.pull, pulled_at=datetime.now(UTC)), kept=False)


def _changed(archive: Archive, stored: StoredPull, account_id: str, change: Callable[[int, _Row], None]) -> StoredPull:
    number = 0
    with archive.draft() as draft:
        for body in archive.pages(stored):
            reply = msgspec.json.decode(body)
            for row in reply["segments"]:
                change(number, row)
                number += 1
            draft.write(msgspec.json.encode(reply))
        facts = replace(
            stored.pull, account_id=account_id, pulled_at=datetime.now(UTC), content_sha256=uuid.uuid4().hex
        )
        return archive.keep(draft, facts)
