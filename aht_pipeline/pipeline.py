"""A day's way from the API into Postgres, and several days in overlap: the next is pulled while one is loaded."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from itertools import chain, islice
from typing import Generic, TypeVar

import sqlalchemy as sa

from aht_pipeline.archive import Archive, StoredPull
from aht_pipeline.days import Day
from aht_pipeline.errors import AhtError
from aht_pipeline.normalize import SegmentBatch, find_superseded, normalize
from aht_pipeline.source import AhtApi, Forgotten, NameKind, pull_day, read_names
from aht_pipeline.warehouse import (
    LoadFacts,
    LoadResult,
    NamesStored,
    doubtful_files,
    known_revision,
    load_day,
    note_unchanged_names,
    record_refusal,
    store_names,
)

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Next = TypeVar("Next")


class NothingToReplay(AhtError):
    """The archive holds no complete pull of a day."""


class GivenUp(AhtError):
    """The run was ended while the day was loaded: it was not."""


class UnforeseenError(AhtError):
    """An error that nobody thought of: a fault of the pipeline's own."""


@dataclass(frozen=True)
class Done(Generic[Result]):
    """One step of one day: its result and how long it took, or the failure that ended it."""

    day: Day
    seconds: float
    result: Result | None = None
    failure: AhtError | None = None

    def then(self, step: Callable[[Result], Next]) -> Done[Next]:
        """The day's next step, on this one's result; where this one failed, its failure."""
        if self.result is None:
            return Done(self.day, 0, failure=self.failure)
        return attempt(self.day, partial(step, self.result))


@dataclass(frozen=True)
class Loaded:
    """A day's load, the pull it came from, and what the API sent that is not documented.

    normalize_seconds: how much of the load's time went by with reading and normalising the archived pages.
    """

    stored: StoredPull
    load: LoadResult
    normalize_seconds: float
    unknown_fields: frozenset[str]
    unknown_end_reasons: frozenset[str]


@dataclass(frozen=True)
class NamesRead:
    """What a reading of the names of a kind came to.

    is_unchanged: the API said that nothing had changed (304). skipped: rows without a usable id or name.
    """

    stored: NamesStored
    is_unchanged: bool
    skipped: int = 0


class Reading:
    """An archived pull as it is normalised, the first of its batches at once.

    seconds: how long the making of its batches took so far, without what was done with them in between.
    unknown_fields, unknown_end_reasons: of the batches so far.
    """

    def __init__(self, archive: Archive, stored: StoredPull, given_up: threading.Event) -> None:
        self.stored = stored
        self.seconds = 0.0
        self.unknown_fields: set[str] = set()
        self.unknown_end_reasons: set[str] = set()
        self._archive = archive
        self._given_up = given_up
        batches = self._normalized()
        self._begun: Iterator[SegmentBatch] | None = chain(list(islice(batches, 1)), batches)

    def batches(self) -> Iterator[SegmentBatch]:
        """All batches; each time anew. Raises GivenUp, and what reading and normalising raise."""
        begun, self._begun = self._begun, None
        return begun or self._normalized()

    def _normalized(self) -> Iterator[SegmentBatch]:
        pull, pages = self.stored.pull, partial(self._archive.pages, self.stored)
        began = time.monotonic()
        superseded = find_superseded(pages()) if pull.rows != pull.reported else None
        for batch in normalize(pages(), pull.day.window, superseded):
            self.seconds += time.monotonic() - began
            self.unknown_fields |= batch.unknown_fields
            self.unknown_end_reasons |= batch.unknown_end_reasons
            yield batch
            if self._given_up.is_set():  # asked after it: the last batch is made while the one before it is written
                raise GivenUp(f"{pull.day}: not loaded, because the run was ended")
            began = time.monotonic()
        self.seconds += time.monotonic() - began


class Pipeline:
    """The open parts that days run through. The API is connected only when a day is pulled.

    connect: opens the API. max_rejected_percent: a day with more rejects fails.
    """

    def __init__(
        self,
        account_id: str,
        archive: Archive,
        warehouse: sa.Engine,
        connect: Callable[[], AhtApi],
        max_rejected_percent: float,
    ) -> None:
        self.account_id = account_id
        self.archive = archive
        self.warehouse = warehouse
        self.max_rejected_percent = max_rejected_percent
        self._connect = connect
        self._api: AhtApi | None = None
        self._given_up = threading.Event()

    def give_up(self) -> None:
        """Have the load that is under way end without a trace, and soon."""
        self._given_up.set()

    def close(self) -> None:
        if self._api:
            self._api.close()
        self.warehouse.dispose()

    def pull(self, day: Day) -> StoredPull:
        """Read the day from the API until it is proved complete, and keep it in the archive."""
        with self.archive.draft() as draft:
            try:
                proved = pull_day(self._connected(), day, draft)
            except Forgotten as refusal:
                record_refusal(self.warehouse, self.account_id, day.date, str(refusal), datetime.now(UTC))
                raise
            return self.archive.keep(draft, proved)

    def latest(self, day: Day) -> StoredPull:
        """The day's latest complete pull in the archive. Raises NothingToReplay where there is none."""
        stored = self.archive.latest(self.account_id, day, self._doubtful_files)
        if stored is None:
            raise NothingToReplay(f"{day}: {self.archive} holds no complete pull of this day; load it from the API")
        return stored

    def read(self, stored: StoredPull) -> Reading:
        """Begin to normalise an archived pull, so that its load can write from its first moment on."""
        return Reading(self.archive, stored, self._given_up)

    def load(self, reading: Reading, run_id: str | None = None) -> Loaded:
        """Upsert a pull: one transaction a day."""
        stored, pull = reading.stored, reading.stored.pull
        facts = LoadFacts(
            account_id=pull.account_id,
            day=pull.day,
            pulled_at=pull.pulled_at,
            reported=pull.reported,
            requests=pull.requests,
            archive_file=stored.file,
            archive_sha256=stored.sha256,
            dagster_run_id=run_id,
            max_rejected_percent=self.max_rejected_percent,
        )
        load = load_day(self.warehouse, facts, reading.batches)
        return Loaded(
            stored, load, reading.seconds, frozenset(reading.unknown_fields), frozenset(reading.unknown_end_reasons)
        )

    def load_names(self, kind: NameKind) -> NamesRead:
        """Bring the names of a kind up to date, if they changed since they were last read."""
        asked_at = datetime.now(UTC)
        listed = read_names(self._connected(), kind, known_revision(self.warehouse, self.account_id, kind))
        if listed is None:
            unchanged = note_unchanged_names(self.warehouse, self.account_id, kind, asked_at)
            return NamesRead(unchanged, is_unchanged=True)
        stored = store_names(self.warehouse, self.account_id, listed, asked_at)
        return NamesRead(stored, is_unchanged=False, skipped=listed.skipped)

    @cached_property
    def _doubtful_files(self) -> frozenset[str]:
        return doubtful_files(self.warehouse, self.account_id)

    def _connected(self) -> AhtApi:
        if self._api is None:
            self._api = self._connect()
        return self._api


def attempt(day: Day, step: Callable[[], Result]) -> Done[Result]:
    """Run one step of one day. Whatever goes wrong in it stays in it: no neighbour fails because of it."""
    began = time.monotonic()
    try:
        result = step()
    except AhtError as failure:
        return Done(day, time.monotonic() - began, failure=failure)
    except Exception as failure:
        log.exception("%s: an unforeseen failure", day)
        told = UnforeseenError(f"unforeseen, please report it: {failure!r}")
        return Done(day, time.monotonic() - began, failure=told)
    return Done(day, time.monotonic() - began, result=result)
