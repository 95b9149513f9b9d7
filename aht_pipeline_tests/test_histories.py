"""Whatever the API says, in whatever order it is read and loaded: the warehouse is the truth in the end.

Histories are made up by hypothesis and run through real HTTP, a real archive and a real Postgres. After every load the
whole warehouse is compared with what it was before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aht_pipeline import warehouse
from aht_pipeline.archive import Archive, StoredPull
from aht_pipeline.days import Day
from aht_pipeline.errors import AhtError
from aht_pipeline.pipeline import NothingToReplay, Pipeline
from aht_pipeline.simulator import ExplicitTraffic, Meanwhile, Style, When
from aht_pipeline.source import Pacing, pull_day
from aht_pipeline.warehouse import LoadResult, RejectedTooMany
from aht_pipeline_tests.histories import (
    CALENDARS,
    FAULTS,
    GOOD,
    HOUR_MS,
    POISONED,
    Change,
    Drop,
    Event,
    History,
    Read,
    Replay,
    ReplayLatest,
    Say,
    Sent,
    raw_rows,
    sent,
)
from aht_pipeline_tests.reading import Reading

Columns = dict[str, dict[str, Any]]
"""By segment id, what is stored of the segment."""

PACING = Pacing(after_faults_s=(0.001, 0.001, 0.001), after_429_s=0.001, longest_429_s=0.002, read_timeout_s=20)

# ------------------------------------------------------------------------------------------------------ the histories


def mostly(choices: Mapping[st.SearchStrategy[Any], int]) -> st.SearchStrategy[Any]:
    """One of these, each as often as its weight says."""
    return st.sampled_from([one for one, weight in choices.items() for _ in range(weight)]).flatmap(lambda one: one)


VERSIONS = st.sampled_from([*GOOD, *GOOD, *POISONED])


def changes(days: int) -> st.SearchStrategy[Change]:
    """Few segments and, mostly, few places for them: so they meet, return and change again."""
    numbers = st.integers(0, 4)
    says = st.builds(
        Say,
        number=numbers,
        day=around_the_second(days),  # in the last of these only its first midnight is anyone's
        ms=st.sampled_from([12 * HOUR_MS, 0, -1, 1, 2 * HOUR_MS, 12 * HOUR_MS + 1, 20 * HOUR_MS]),
        version=VERSIONS,
        copies=st.sampled_from([1, 1, 1, 1, 1, 1, 1, 1, 2]),
    )
    return mostly({says: 8, st.builds(Drop, numbers): 1})


def around_the_second(last: int) -> st.SearchStrategy[int]:
    return st.sampled_from([1, 1, 1, 1, 2, 0, 1, 2, 0, last])


def reads(days: int) -> st.SearchStrategy[Read]:
    day, load = around_the_second(days - 1), st.sampled_from([True, True, True, False])
    troubled = st.builds(
        Read,
        day=day,
        fault=st.sampled_from(["none", "none", *FAULTS]),
        meanwhile=st.lists(st.tuples(st.integers(0, 3), changes(days)), max_size=3).map(tuple),
        load=load,
    )
    return mostly({st.builds(Read, day=day, load=load): 3, troubled: 2})


def chapters(days: int, least: int) -> st.SearchStrategy[tuple[Event, ...]]:
    """The API says this and that, and it is read; or something older is loaded."""
    day = around_the_second(days - 1)
    replays = mostly({st.builds(Replay, day, st.integers(1, 3)): 3, st.builds(ReplayLatest, day): 1})
    return st.tuples(
        st.lists(changes(days), min_size=least, max_size=5),
        st.lists(mostly({reads(days): 2, replays: 1}), min_size=1, max_size=3),
    ).map(lambda chapter: (*chapter[0], *chapter[1]))


@st.composite
def late_loads(draw: st.DrawFn) -> tuple[Event, ...]:
    """A segment changes twice, perhaps back to what it was; what was pulled in between is loaded at the end."""
    first, second = draw(VERSIONS), draw(VERSIONS)
    say = Say(draw(st.integers(0, 4)), day=1, ms=12 * HOUR_MS, version=first)
    return (
        *(say, Read(1), replace(say, version=second), Read(1, load=False)),
        *(replace(say, version=draw(st.just(first) | VERSIONS)), Read(1), Replay(1, 1)),
    )


@st.composite
def histories(draw: st.DrawFn) -> History:
    timezone, first_day = draw(st.sampled_from(CALENDARS))
    days = draw(st.sampled_from([3, 3, 3, 3, 4, 5]))
    counted = draw(st.sampled_from([True, True, True, False]))
    crowd = [
        Say(10 + number, day=1, ms=(8 + number // 2) * HOUR_MS) for number in range(draw(st.sampled_from([6, 3, 0])))
    ]
    told = [
        crowd,
        draw(chapters(days, 3)),
        draw(chapters(days, 1)),
        *draw(st.lists(mostly({chapters(days, 0): 3, late_loads(): 1}), max_size=3)),
    ]
    return History(
        timezone=timezone,
        first_day=first_day,
        days=days,
        page_size=draw(st.sampled_from([2, 3, 3, 5, 7])),
        max_limit=draw(st.sampled_from([500, 500, 2])),
        concurrency=draw(st.sampled_from([1, 1, 3])),
        style=Style(
            max_rows=draw(st.sampled_from([None, None, None, 3])),
            half_open=draw(st.booleans()),
            pagination=counted,
            shuffle_ties=counted and draw(st.sampled_from([False, False, True])),
        ),
        max_rejected_percent=draw(st.sampled_from([100, 100, 100, 40])),
        events=tuple(event for chapter in told for event in chapter),
    )


of_histories = partial(
    settings,
    deadline=None,
    suppress_health_check=list(HealthCheck),  # one database serves all histories, each begins by emptying it
)

# ---------------------------------------------------------------------------------------------------------- the tests


@pytest.fixture
def url(database_url: str) -> str:
    warehouse.upgrade(database_url)
    return database_url


@given(histories())
@of_histories(max_examples=80, derandomize=True, database=None)
def test_the_warehouse_is_the_truth_after_any_history(url: str, history: History) -> None:
    live_through(url, history)


@pytest.mark.long
@given(histories())
@of_histories(max_examples=5_000)
def test_the_warehouse_is_the_truth_after_any_of_very_many_histories(url: str, history: History) -> None:
    live_through(url, history)


def live_through(url: str, history: History) -> None:
    with ExitStack() as closing:
        account = Account(history, url, closing)
        for event in history.events:
            account.live_through(event)
        account.read_everything_in_peace()
        account.assert_the_warehouse_is_the_truth()


# -------------------------------------------------------------------------------------------- what the warehouse holds


@dataclass(frozen=True)
class State:
    """All that is in the warehouse: segments by id, rejects by the SHA-256 of the raw row, the ledger's rows."""

    segments: dict[str, dict[str, Any]]
    rejects: dict[str, dict[str, Any]]
    loads: tuple[dict[str, Any], ...]


def state_of(connection: sa.Connection) -> State:
    segments, rejects, loads = (
        connection.execute(sa.text(f"SELECT * FROM aht.{table}")).mappings().all()
        for table in ("agent_segments", "rejected_segments", "loads ORDER BY load_id")
    )
    connection.rollback()
    return State(
        {row["segment_id"]: dict(row) for row in segments},
        {row["raw_sha256"]: dict(row) for row in rejects},
        tuple(dict(row) for row in loads),
    )


def columns_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the API said of the segment, without what the loads noted beside it."""
    return {name: row[name] for name in row if name not in ("pulled_at", "first_loaded_at", "updated_at", "revision")}


# ---------------------------------------------------------------------------------------------------------- an account


class Account:
    """One account: its API, what was pulled of it, and the warehouse that is compared before and after each load."""

    def __init__(self, history: History, url: str, closing: ExitStack) -> None:
        zone = ZoneInfo(history.timezone)
        dates = [history.first_day + timedelta(days=number) for number in range(history.days + 1)]
        self.midnights = [datetime.combine(date, time(), zone).astimezone(UTC) for date in dates]
        self.days = [Day(date, history.timezone) for date in dates[:-1]]
        self.clock = self.midnights[-1] + timedelta(hours=1)
        self.traffic = ExplicitTraffic()
        self.said: dict[bytes, Sent] = {}
        self.saying: dict[int, tuple[Say, Sent]] = {}
        self.pulls: list[StoredPull] = []

        reading = Reading(closing)
        self.simulator = reading.simulator(
            self.traffic, style=history.style, max_limit=history.max_limit, now=lambda: self.clock
        )
        self.api = reading.api(
            self.simulator, page_size=history.page_size, concurrency=history.concurrency, pacing=PACING
        )
        self.pipeline = Pipeline(
            account_id="demo",
            archive=Archive(closing.enter_context(TemporaryDirectory())),
            warehouse=warehouse.engine(f"{url}?options=-csynchronous_commit%3Doff"),  # it is not killed here
            connect=lambda: self.api,
            max_rejected_percent=history.max_rejected_percent,
        )
        closing.callback(self.pipeline.close)
        self.connection = closing.enter_context(self.pipeline.warehouse.connect())
        self.connection.execute(sa.text("TRUNCATE aht.agent_segments, aht.rejected_segments, aht.loads"))
        self.connection.commit()
        self.state = state_of(self.connection)

    def live_through(self, event: Event) -> None:
        match event:
            case Say() | Drop():
                self.change(event)
            case Read():
                stored = self.pull(event)
                if stored and event.load:
                    self.load(stored)
            case Replay(day, back):
                of_day = [stored for stored in self.pulls if stored.pull.day == self.days[day]]
                if of_day:
                    self.load(of_day[max(0, len(of_day) - 1 - back)])
            case ReplayLatest(day):
                try:
                    latest = self.pipeline.latest(self.days[day])
                except NothingToReplay:
                    assert all(stored.pull.day != self.days[day] for stored in self.pulls)
                else:
                    self.load(latest)

    def change(self, change: Change) -> None:
        if change.number in self.saying:
            before, _ = self.saying.pop(change.number)
            for copy in range(before.copies):
                self.traffic.remove(f"{change.number} {copy}")
        if isinstance(change, Say):
            close = self.midnights[change.day] + timedelta(milliseconds=change.ms)
            row = sent(change.number, close, change.version)
            self.said[row.raw] = row
            self.saying[change.number] = change, row
            for copy in range(change.copies):
                self.traffic.add(row.raw, close=close, name=f"{change.number} {copy}")

    # ------------------------------------------------------------------------------------------------------ pulling

    def pull(self, read: Read) -> StoredPull | None:
        """What is kept of the day; None where it could not be read, which only trouble excuses."""
        self.clock += timedelta(hours=1)
        day, is_quiet = self.days[read.day], read.fault == "none" and not read.meanwhile
        moves = [Meanwhile(partial(self.change, change), When(after=k, first=1)) for k, change in read.meanwhile]
        self.simulator.set_faults(*moves, *FAULTS[read.fault])
        before = self.served(read.day)
        try:
            with self.pipeline.archive.draft() as draft:
                proved = pull_day(self.api, day, draft, now=self.clock)
                stored = self.pipeline.archive.keep(draft, proved)
        except AhtError:
            assert not is_quiet or self.is_confused
            return None
        finally:
            self.simulator.set_faults()
        assert read.fault != "500 for ever"
        rows = [self.said[raw] for page in self.pipeline.archive.pages(stored) for raw in raw_rows(page)]
        if not read.meanwhile:
            assert {row.raw for row in rows} == before
        self.pulls.append(stored)
        return stored

    def served(self, day: int) -> set[bytes]:
        """What the API has for a day, asked for with both edges in."""
        start, end = self.midnights[day], self.midnights[day + 1]
        if self.simulator.style.half_open:
            end -= timedelta(milliseconds=1)
        return {row.raw for _, row in self.saying.values() if start <= row.close <= end}

    @property
    def is_confused(self) -> bool:
        """Whether the API may say too little of a quiet day for a proof: the same row twice, or no order."""
        return self.simulator.style.shuffle_ties or any(say.copies > 1 for say, _ in self.saying.values())

    # ------------------------------------------------------------------------------------------------------ loading

    def load(self, stored: StoredPull) -> None:
        """Load a pull, and compare what it did with what it may do."""
        raws = [raw for page in self.pipeline.archive.pages(stored) for raw in raw_rows(page)]
        last_of_each = {self.said[raw].key: self.said[raw] for raw in raws}
        rows = list(last_of_each.values())
        poisoned = [row for row in rows if row.columns is None]
        before = self.state
        try:
            load = self.pipeline.load(self.pipeline.read(stored)).load
        except RejectedTooMany:
            self.state = state_of(self.connection)
            assert self.state == before
            assert len(poisoned) * 100 > self.pipeline.max_rejected_percent * len(rows)
            return
        self.state = state_of(self.connection)

        window = self.days.index(stored.pull.day)
        start, end = self.midnights[window], self.midnights[window + 1]
        inside = {
            row.segment_id: row.columns
            for row in rows
            if row.segment_id and row.columns and start <= row.columns["end_time"] < end
        }
        assert load.reported == len(rows)
        assert load.rejected == len(poisoned)
        assert load.outside_day == len(rows) - len(poisoned) - len(inside)
        as_of, is_newest = self.standing(stored, before)
        self.compare_segments(before, load, inside, as_of, is_newest)
        self.compare_rejects(before, load, inside, poisoned, is_newest)
        self.compare_ledger(before, load, as_of, end)

    def standing(self, stored: StoredPull, before: State) -> tuple[datetime, bool]:
        """When the API last said what this pull holds, and whether no other pull of its day that is newer was loaded.

        A pull whose segments equal the last kept one's is loaded from that one's file.
        """
        loads = [load for load in before.loads if load["day"] == stored.pull.day.date]
        equal = [load["pulled_at"] for load in loads if load["archive_file"] == stored.file]
        others = [load["pulled_at"] for load in loads if load["archive_file"] != stored.file]
        as_of = max([stored.pull.pulled_at, *equal])
        return as_of, all(pulled_at <= as_of for pulled_at in others)

    def compare_segments(
        self, before: State, load: LoadResult, inside: Columns, as_of: datetime, is_newest: bool
    ) -> None:
        after = self.state.segments
        assert after.keys() == before.segments.keys() | inside.keys()
        inserted = updated = 0
        for segment_id, row in after.items():
            known, said = before.segments.get(segment_id), inside.get(segment_id)
            noted = {"pulled_at": as_of, "updated_at": load.loaded_at}
            if known is None:
                inserted += 1
                assert row == {**inside[segment_id], **noted, "first_loaded_at": load.loaded_at, "revision": 1}
            elif said is None or said == columns_of(known) or not is_newest or known["pulled_at"] > as_of:
                assert row == known
            else:
                updated += 1
                first_loaded_at, revision = known["first_loaded_at"], known["revision"] + 1
                assert row == {**said, **noted, "first_loaded_at": first_loaded_at, "revision": revision}
        assert (load.inserted, load.updated) == (inserted, updated)
        assert load.unchanged == len(inside) - inserted - updated

    def compare_rejects(
        self, before: State, load: LoadResult, inside: Columns, poisoned: list[Sent], is_newest: bool
    ) -> None:
        after = self.state.rejects
        met = {hashlib.sha256(row.raw).hexdigest(): row for row in poisoned}
        assert after.keys() == before.rejects.keys() | met.keys()
        for sha256, reject in after.items():
            known = before.rejects.get(sha256)
            if sha256 in met:
                assert reject["raw"] == met[sha256].raw.decode()
                assert reject["reasons"]
                assert reject["last_seen_at"] == load.loaded_at
                assert reject["first_seen_at"] == (known["first_seen_at"] if known else load.loaded_at)
                assert reject["resolved_at"] == (known["resolved_at"] if known and not is_newest else None)
            elif known and is_newest and not known["resolved_at"] and self.segment_of(reject) in inside:
                assert reject == {**known, "resolved_at": load.loaded_at}
            else:
                assert reject == known

    def segment_of(self, reject: Mapping[str, Any]) -> str | None:
        return self.said[reject["raw"].encode()].segment_id

    def compare_ledger(self, before: State, load: LoadResult, as_of: datetime, day_end: datetime) -> None:
        *earlier, entered = self.state.loads
        figures = ("load_id", "loaded_at", "reported", "inserted", "updated", "unchanged", "rejected", "outside_day")
        assert tuple(earlier) == before.loads
        assert {name: entered[name] for name in figures} == {name: getattr(load, name) for name in figures}
        assert load.reported == (load.inserted + load.updated + load.unchanged + load.rejected + load.outside_day)
        assert entered["settled"] == load.settled == (as_of > day_end + timedelta(hours=24))

    # ------------------------------------------------------------------------------------------------------ the end

    def read_everything_in_peace(self) -> None:
        self.simulator.style = replace(self.simulator.style, shuffle_ties=False)
        self.pipeline.max_rejected_percent = 100
        for say, _ in list(self.saying.values()):
            self.change(replace(say, copies=1))
        for day in range(len(self.days)):
            self.live_through(Read(day))

    def assert_the_warehouse_is_the_truth(self) -> None:
        segments, rejects = self.state.segments, self.state.rejects
        for _, row in self.saying.values():
            if not self.midnights[0] <= row.close < self.midnights[-1]:
                continue
            if row.columns is None:
                assert rejects[hashlib.sha256(row.raw).hexdigest()]["resolved_at"] is None
                continue
            assert row.segment_id
            assert columns_of(segments[row.segment_id]) == row.columns
            for reject in rejects.values():
                if self.segment_of(reject) == row.segment_id:
                    assert reject["resolved_at"] is not None
        ever_said = [row.columns for row in self.said.values() if row.columns]
        for stored in segments.values():
            assert columns_of(stored) in ever_said
