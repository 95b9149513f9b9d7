"""Believable traffic without end: each UTC day is made from the seed and the date alone."""

from __future__ import annotations

import base64
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, date, datetime

import msgspec
import numpy as np
import numpy.typing as npt

from aht_pipeline.days import to_millis
from aht_pipeline.simulator.traffic import NONE, DaySegments, Ints, Segment

_MINUTE, _HOUR, _DAY = 60_000, 3_600_000, 86_400_000
_WEEKEND = 0.35  # of a weekday's traffic
_SHIFT_STARTS = np.array([6, 9, 14, 22])  # hours, UTC; a shift lasts eight
_SHIFT_SHARES = np.array([0.35, 0.40, 0.20, 0.05])
_CLOSED = np.array(["closedByConsumer", "closedByAgent", "closedBySystem", "other"])
_PASSED_ON = np.array(["agentTransfer", "skillTransfer", "backToQueue"])
_SKILLS, _FIRST_SKILL = 12, 4_100_000_001
_ROWS_KEPT = 3_000_000


class GeneratedTraffic:
    """Conversations of one to five segments, handled by agents in shifts.

    segments_per_day: about how many segments close on a weekday (up to 7 % more or less from day to day; a third of
    it at weekends). `count` says how many exactly: the same for the same seed and date, in every process.
    first_day: nothing closes before this UTC day; None: no bound.

    All segments of a conversation close on one UTC day; the first of them may have begun days before.
    """

    def __init__(
        self, account: str = "demo", segments_per_day: int = 2000, *, seed: int = 0, first_day: date | None = None
    ) -> None:
        self._account = account
        self._segments_per_day = segments_per_day
        self._seed = seed
        self._first_day = first_day
        self._roster = _roster(seed, agents=max(16, segments_per_day // 50))
        self._days: OrderedDict[date, DaySegments] = OrderedDict()
        self._days_kept = min(40, max(3, _ROWS_KEPT // max(1, segments_per_day)))
        self._cache_lock = threading.Lock()
        self._making = threading.Lock()

    @property
    def agents(self) -> list[int]:
        """The ids of all agents there are."""
        ids: list[int] = self._roster.agent_id.tolist()
        return ids

    def count(self, day: date) -> int:
        """How many segments close on this UTC day."""
        if self._first_day is not None and day < self._first_day:
            return 0
        share = _WEEKEND if day.weekday() >= 5 else 1.0
        variation: float = np.random.default_rng([self._seed, day.toordinal(), 0]).uniform(0.93, 1.07)
        return round(self._segments_per_day * share * variation)

    def day(self, day: date) -> DaySegments:
        made = self._cached(day)
        if made is None:
            with self._making:  # several requests for a new day make it once
                made = self._cached(day)
                if made is None:
                    made = self._keep(day, self._make(day))
        return made

    def _cached(self, day: date) -> DaySegments | None:
        with self._cache_lock:
            if day in self._days:
                self._days.move_to_end(day)
            return self._days.get(day)

    def _keep(self, day: date, made: DaySegments) -> DaySegments:
        with self._cache_lock:
            self._days[day] = made
            if len(self._days) > self._days_kept:
                self._days.popitem(last=False)
        return made

    def _make(self, day: date) -> DaySegments:
        rng = np.random.default_rng([self._seed, day.toordinal(), 1])
        midnight_ms = to_millis(datetime(day.year, day.month, day.day, tzinfo=UTC))
        columns = _columns(rng, self._roster, self.count(day), midnight_ms)
        newest_first = np.argsort(-columns.end_ms, kind="stable")
        return _rendered(rng, self._account, self._roster, columns.take(newest_first))


@dataclass(frozen=True)
class _Roster:
    """The account's agents, in the order of their shifts: those of shift `s` are `first[s]` to `first[s + 1]`."""

    agent_id: Ints
    employee_id: npt.NDArray[np.object_]
    group_id: Ints
    first: Ints


@dataclass(frozen=True)
class _Columns:
    conversation: Ints  # its number within the day
    agent: Ints  # its place in the roster
    start_ms: Ints
    end_ms: Ints
    handled_ms: Ints
    skill_id: Ints
    reason: npt.NDArray[np.str_]

    def take(self, order: Ints) -> _Columns:
        return _Columns(**{name: column[order] for name, column in vars(self).items()})


def _roster(seed: int, agents: int) -> _Roster:
    rng = np.random.default_rng([seed, 0])
    employee_id = np.array([f"{number:05d}" for number in range(42, 42 + agents)], dtype=object)
    kind = rng.random(agents)
    employee_id[kind < 0.15] = [f"E{number}" for number in np.flatnonzero(kind < 0.15)]
    employee_id[kind < 0.06] = ""
    employee_id[kind < 0.04] = None
    employee_id[kind < 0.02] = msgspec.UNSET
    return _Roster(
        agent_id=3_000_000_000 + np.cumsum(rng.integers(1, 200, agents)),
        employee_id=employee_id,
        group_id=np.where(rng.random(agents) < 0.05, NONE, 510_001 + rng.integers(0, 6, agents)),
        first=np.round(agents * np.concatenate(([0], np.cumsum([0.30, 0.35, 0.20, 0.15])))).astype(np.int64),
    )


def _columns(rng: np.random.Generator, roster: _Roster, size: int, midnight_ms: int) -> _Columns:
    """A day's segments, those of a conversation one after the other."""
    sizes = np.minimum(rng.geometric(0.75, size), 5)
    conversation = np.repeat(np.arange(size), sizes)[:size]
    opens = np.diff(conversation, prepend=-1) > 0
    closes = np.append(opens, True)[1:]

    shift = rng.choice(len(_SHIFT_STARTS), size, p=_SHIFT_SHARES)[conversation]
    start_ms, end_ms = _times(rng, conversation, opens, shift)
    reason = np.where(
        closes,
        rng.choice(_CLOSED, size, p=[0.45, 0.40, 0.14, 0.01]),
        rng.choice(_PASSED_ON, size, p=[0.45, 0.40, 0.15]),
    )
    return _Columns(
        conversation=conversation,
        agent=_agents(rng, roster, opens, shift),
        start_ms=midnight_ms + start_ms,
        end_ms=midnight_ms + end_ms,
        handled_ms=_handled(rng, end_ms - start_ms),
        skill_id=_skills(rng, conversation, opens, reason),
        reason=reason,
    )


def _times(
    rng: np.random.Generator, conversation: Ints, opens: npt.NDArray[np.bool_], shift: Ints
) -> tuple[Ints, Ints]:
    """Starts and closes in ms after midnight: closes within the day, each segment beginning where the last ended."""
    size = len(conversation)
    durations = rng.lognormal(np.log(12 * _MINUTE), 1.1, size)
    durations = np.clip(durations, 1000, np.where(opens, 72 * _HOUR, 4 * _HOUR)).astype(np.int64)

    since_day_began = np.cumsum(np.where(opens, 0, durations))
    after_first_close = since_day_began - since_day_began[opens][conversation]
    span = np.zeros(conversation.max(initial=-1) + 1, np.int64)
    span[conversation] = after_first_close  # the last segment of each conversation is written last
    hour = (_SHIFT_STARTS[shift] + 8 * rng.beta(1.6, 1.6, size)[conversation]) % 24
    first_close = (hour / 24 * (_DAY - 1 - span[conversation])).astype(np.int64)

    end_ms = first_close + after_first_close
    end_ms -= end_ms % rng.choice([1000, 100, 10, 1], size, p=[0.15, 0.10, 0.15, 0.60])
    started = end_ms - durations
    started -= started % rng.choice([1000, 100, 10, 1], size, p=[0.15, 0.10, 0.15, 0.60])
    return np.where(opens, started, np.concatenate((end_ms[:1], end_ms[:-1]))), end_ms


def _handled(rng: np.random.Generator, duration_ms: Ints) -> Ints:
    """Handle times in ms: heavy-tailed, within the duration but for a wrong clock in 500, and now and then nothing."""
    size = len(duration_ms)
    handled = np.minimum(rng.lognormal(np.log(6 * _MINUTE), 0.9, size), duration_ms).astype(np.int64)
    kind = rng.random(size)
    handled[kind < 0.015] = 0
    wrong_clock = kind > 0.998
    handled[wrong_clock] = duration_ms[wrong_clock] + rng.integers(1, 5 * _MINUTE, int(wrong_clock.sum()))
    return handled


def _agents(rng: np.random.Generator, roster: _Roster, opens: npt.NDArray[np.bool_], shift: Ints) -> Ints:
    """Any agent of the shift, but nobody passes a conversation on to himself."""
    first, on_duty = roster.first[shift], np.diff(roster.first)[shift]
    steps = np.where(opens, rng.integers(0, on_duty), rng.integers(1, on_duty))
    return first + _sum_within_conversation(steps, opens) % on_duty


def _skills(
    rng: np.random.Generator, conversation: Ints, opens: npt.NDArray[np.bool_], reason: npt.NDArray[np.str_]
) -> Ints:
    """A skill for each conversation, some rarer than others; only a skill transfer changes it."""
    size = len(conversation)
    moved = np.concatenate(([False], reason[:-1] == "skillTransfer")) & ~opens if size else opens
    first = (_SKILLS * rng.random(size) ** 2).astype(np.int64)
    steps = np.where(opens, first, np.where(moved, rng.integers(1, _SKILLS, size), 0))
    skill_id = _FIRST_SKILL + _sum_within_conversation(steps, opens) % _SKILLS
    without = rng.random(size)[conversation] < 0.04
    return np.where(without, NONE, skill_id)


def _sum_within_conversation(steps: Ints, opens: npt.NDArray[np.bool_]) -> Ints:
    total = np.cumsum(steps)
    before: Ints = (total - steps)[opens][np.cumsum(opens) - 1]
    return total - before


def _rendered(rng: np.random.Generator, account: str, roster: _Roster, columns: _Columns) -> DaySegments:
    size = len(columns.end_ms)
    uuids = _uuids(rng, int(columns.conversation.max(initial=-1)) + 1)
    conversations = [uuids[number] for number in columns.conversation.tolist()]
    agents = roster.agent_id[columns.agent]
    groups = roster.group_id[columns.agent]
    employees = roster.employee_id[columns.agent].tolist()
    segment_ids = [
        f"{account}:{agent}:{conversation}:{key}"
        for agent, conversation, key in zip(agents.tolist(), conversations, _keys(rng, size), strict=True)
    ]
    rows = map(
        Segment,
        segment_ids,
        _iso_texts(columns.start_ms),
        columns.start_ms.tolist(),
        _iso_texts(columns.end_ms),
        columns.end_ms.tolist(),
        conversations,
        agents.tolist(),
        employees,
        columns.skill_id.tolist(),
        groups.tolist(),
        columns.reason.tolist(),
        columns.handled_ms.tolist(),
    )
    json, starts = _as_one_text(rows)
    return DaySegments(
        json=json,
        starts=starts,
        close_ms=columns.end_ms,
        lateness=rng.random(size),
        conversation=np.array(conversations, dtype=np.bytes_),
        agent=agents,
        employee=np.array([employee or "" for employee in employees], dtype=np.bytes_),
        skill=columns.skill_id,
        group=groups,
    )


def _as_one_text(rows: map[Segment]) -> tuple[bytearray, Ints]:
    """The rows in JSON, joined by commas, and where each begins."""
    json = bytearray(msgspec.json.Encoder().encode_lines(list(rows)))
    characters = np.frombuffer(json, np.uint8)
    line_ends = np.flatnonzero(characters == ord("\n"))
    characters[line_ends] = ord(",")
    return json, np.concatenate(([0], line_ends + 1))


def _iso_texts(epoch_ms: Ints) -> list[str]:
    """RFC 3339 in UTC with as many of the three fraction digits as it takes."""
    texts = np.datetime_as_string(epoch_ms.astype("datetime64[ms]")).tolist()
    return [text.rstrip("0").rstrip(".") + "Z" if "." in text else text + "Z" for text in texts]


def _uuids(rng: np.random.Generator, size: int) -> list[str]:
    octets = np.frombuffer(rng.bytes(16 * size), np.uint8).reshape(size, 16).copy()
    octets[:, 6] = octets[:, 6] & 0x0F | 0x40
    octets[:, 8] = octets[:, 8] & 0x3F | 0x80
    digits = octets.tobytes().hex()
    texts = [digits[at : at + 32] for at in range(0, len(digits), 32)]
    return [f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}" for text in texts]


def _keys(rng: np.random.Generator, size: int) -> list[str]:
    """Random keys of 22 characters, as the last part of a segment id."""
    octets = np.zeros((size, 18), np.uint8)  # 16 random ones, and two that make 24 characters a key
    octets[:, :16] = np.frombuffer(rng.bytes(16 * size), np.uint8).reshape(size, 16)
    text = base64.urlsafe_b64encode(octets.tobytes()).decode()
    return [text[at : at + 22] for at in range(0, len(text), 24)]
