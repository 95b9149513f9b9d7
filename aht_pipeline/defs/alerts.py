"""Alerts: runs that failed, checks that failed and days about to be lost, each posted once to the webhook.

What was posted is remembered in the Dagster instance, for the sensors and for `load`, which may run without a daemon.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta

import dagster as dg
from filelock import FileLock

from aht_pipeline.alerts import post
from aht_pipeline.coverage import day_states, gaps
from aht_pipeline.defs.assets import RAW, SEGMENTS
from aht_pipeline.defs.checks import NO_GAPS
from aht_pipeline.home import look_at_warehouse
from aht_pipeline.settings import Settings
from aht_pipeline.warehouse import day_records

_MEMORY = "aht_pipeline/alerts"
_RUNS_EVERY_S, _GAPS_EVERY_S = 30, 3_600
_LOOK_BACK = timedelta(minutes=10)
"""Runs are met in the order in which their ends were stored, which is not quite that of their ends."""


def alert_sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """Nothing to watch with, where there is no webhook to post to."""
    if not settings.alert_webhook_url:
        return []

    @dg.sensor(
        name="alerts",
        minimum_interval_seconds=_RUNS_EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Posts every run and every check that failed to AHT_ALERT_WEBHOOK_URL, once.",
    )
    def alerts(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        return _told(tell_of_runs(context.instance, settings))

    @dg.sensor(
        name="gap_alerts",
        minimum_interval_seconds=_GAPS_EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Posts days that are not loaded and soon lost for ever to AHT_ALERT_WEBHOOK_URL, each once.",
    )
    def gap_alerts(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        return _told(tell_of_gaps(context.instance, settings))

    return [alerts, gap_alerts]


def begin(instance: dg.DagsterInstance, settings: Settings) -> None:
    """From now on runs are told of; those that ended before anyone asked for alerts are not."""
    with _memory(instance, settings):
        pass


def tell_of_runs(instance: dg.DagsterInstance, settings: Settings) -> int:
    """Post what failed in the runs that ended since the last time; the number of posts. Raises AlertFailed."""
    posts = 0
    with _memory(instance, settings) as memory:
        for record in _ended_runs(instance, memory):
            run_id = record.dagster_run.run_id
            failing, texts = _news_of(instance, record.dagster_run, memory.failing)
            for text in texts[memory.posted.get(run_id, 0) :]:
                _post(settings, f"{text}\n{_link(settings, 'runs', run_id)}")
                memory.posted[run_id] = memory.posted.get(run_id, 0) + 1
                posts += 1
            memory.failing = failing
            memory.note_run(record)
    return posts


def tell_of_gaps(instance: dg.DagsterInstance, settings: Settings) -> int:
    """Post when a day is about to be lost, or was lost, that was not told of before. Raises AlertFailed."""
    now = datetime.now(UTC)
    records = day_records(look_at_warehouse(settings), settings.require_account())
    found = gaps(day_states(records, settings.start_date, settings.timezone, now), now)
    threatened = [f"soon lost {state.day}" for state in found.soon_lost] + [f"lost {state.day}" for state in found.lost]
    with _memory(instance, settings) as memory:
        is_new = not set(threatened) <= set(memory.gaps)
        if is_new:
            _post(settings, f"days are missing.\n{found.text}\n{_link(settings, 'assets', SEGMENTS.to_user_string())}")
        memory.gaps = threatened
    return int(is_new)


def _told(posts: int) -> dg.SkipReason:
    return dg.SkipReason(f"{posts} alerts posted" if posts else "nothing new to tell")


def _post(settings: Settings, text: str) -> None:
    post(settings.alert_webhook_url or "", f"aht_pipeline, account {settings.account_id}: {text}")


def _link(settings: Settings, kind: str, name: str) -> str:
    """To the page in the UI; where its address is not known, what to look for there."""
    return f"{settings.ui_url}/{kind}/{name}" if settings.ui_url else f"(in the Dagster UI: {kind}/{name})"


def _news_of(instance: dg.DagsterInstance, run: dg.DagsterRun, known: list[str]) -> tuple[list[str], list[str]]:
    """The checks that fail after this run, and a text for the run, if it failed, and for each check that failed in it.

    A check that fails again for a day that it failed for before (`known`) is no news, until it has passed.
    """
    failing = list(known)
    texts = []
    if run.status is dg.DagsterRunStatus.FAILURE:
        texts.append(f"a run failed. {_reason(instance, run.run_id)}")
    failed = defaultdict(list)
    for entry in instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records:
        event = entry.event_log_entry.get_dagster_event()
        check = event.asset_check_evaluation_data
        if check.check_name == NO_GAPS:  # gaps are told of whether or not anything runs
            continue
        check_and_day = f"{check.check_name} {check.partition}"
        if check.passed:
            failing = [one for one in failing if one != check_and_day]
        elif check_and_day not in failing:
            failing.append(check_and_day)
            failed[check.check_name].append(f"{check.partition}: {check.description}")
    for name, days in failed.items():
        texts.append(
            f"the check {name} failed for {len(days)} {'day' if len(days) == 1 else 'days'}.\n" + "\n".join(days)
        )
    return failing, texts


def _reason(instance: dg.DagsterInstance, run_id: str) -> str:
    """What the failed step said of the days; else what Dagster says of a run whose process went away."""
    types = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
    for entry in instance.get_records_for_run(run_id, of_type=types).records:
        event = entry.event_log_entry.get_dagster_event()
        if event.is_step_failure:
            failure = event.step_failure_data
            told = failure.user_failure_data.description if failure.user_failure_data else None
            return told or (failure.error.message.strip() if failure.error else "")
        if event.message:
            return event.message
    return ""


def _ended_runs(instance: dg.DagsterInstance, memory: _Memory) -> list[dg.RunRecord]:
    """Runs of our assets that ended and were not told of, in the order of their ends."""
    since = max(memory.begun_at, memory.told_until - _LOOK_BACK.total_seconds())
    statuses = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
    updated_after = datetime.fromtimestamp(since, UTC)
    records = instance.get_run_records(dg.RunsFilter(statuses=statuses, updated_after=updated_after))
    new = [
        record
        for record in records
        if record.end_time and record.end_time > since and record.dagster_run.run_id not in memory.told
        if {RAW, SEGMENTS} & set(record.dagster_run.asset_selection or ())
    ]
    return sorted(new, key=lambda record: record.end_time or 0)


@dataclass
class _Memory:
    """What was told: until when (epoch seconds), which of the latest runs (and when each ended), checks and gaps.

    posted: of a run that is told of in part, how many posts the webhook has taken.
    """

    begun_at: float
    told_until: float
    told: dict[str, float] = field(default_factory=dict)
    posted: dict[str, int] = field(default_factory=dict)
    failing: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)

    def note_run(self, record: dg.RunRecord) -> None:
        ended_at = record.end_time or 0
        self.posted.pop(record.dagster_run.run_id, None)
        self.told_until = max(self.told_until, ended_at)
        oldest = self.told_until - 2 * _LOOK_BACK.total_seconds()
        self.told = {run: at for run, at in self.told.items() if at > oldest} | {record.dagster_run.run_id: ended_at}


@contextmanager
def _memory(instance: dg.DagsterInstance, settings: Settings) -> Iterator[_Memory]:
    """What was told so far, kept again at the end, also of a failure; one at a time has it."""
    with FileLock(settings.dagster_home / ".alerts.lock"):
        kept = instance.daemon_cursor_storage.get_cursor_values({_MEMORY}).get(_MEMORY)
        now = datetime.now(UTC).timestamp()
        memory = _Memory(**json.loads(kept)) if kept else _Memory(begun_at=now, told_until=now)
        try:
            yield memory
        finally:
            instance.daemon_cursor_storage.set_cursor_values({_MEMORY: json.dumps(asdict(memory))})
