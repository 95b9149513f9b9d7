"""`load`: days through Dagster, in this process, with progress as they come."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from aht_pipeline.commands.configured import configured
from aht_pipeline.commands.output import say
from aht_pipeline.coverage import ranges
from aht_pipeline.days import date_range, yesterday
from aht_pipeline.errors import AhtError, SettingsError
from aht_pipeline.home import open_dagster, open_warehouse, prepare_dagster_home
from aht_pipeline.settings import Settings

if TYPE_CHECKING:  # Dagster is imported when the settings are right and there is work
    import dagster as dg

    from aht_pipeline.pipeline import Done

Span = tuple[date, date]

_INTERRUPTED = "the run was interrupted before it came to this"


def run_load(first: date | None, last: date | None, replay: bool) -> int:
    """0 when every day is complete, 1 when one failed. Raises SettingsError before any work."""
    settings = configured()
    settings.require_account()
    if not (settings.demo or replay):
        settings.require_keys()
    given = _given_span(settings, first, last)
    open_warehouse(settings).dispose()
    spans = [given] if given else _spans_of_the_night(settings)
    if not spans:
        say("No day since the start date is complete yet: nothing to load.")
        return 0
    is_night = given is None
    outcome = materialise(settings, spans, replay=replay, roll_up=is_night, names=is_night and not replay)
    return 1 if outcome.failures else 0


@dataclass
class Outcome:
    """What became of the days: how many segments each has, and why the others failed.

    is_interrupted: somebody pressed Ctrl-C, or ended the process politely; nothing more is begun.
    """

    loaded: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    is_interrupted: bool = False


def materialise(
    settings: Settings, spans: list[Span], *, replay: bool = False, roll_up: bool = False, names: bool = False
) -> Outcome:
    """Materialise these ranges of days, each as one Dagster run, and tell of every day as it is done.

    roll_up: refresh the rollups of the reports afterwards, which else the daemon does.
    names: read what agents, skills and groups are called, too.
    """
    os.environ["DAGSTER_HOME"] = str(prepare_dagster_home(settings))
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)  # Ctrl-C while Dagster closes a file is no news
    from aht_pipeline.commands.remains import end_runs_of_the_dead, this_process
    from aht_pipeline.defs import build_defs
    from aht_pipeline.defs.assets import RAW, SEGMENTS
    from aht_pipeline.defs.names import NAMES
    from aht_pipeline.defs.rollups import ROLLUPS
    from aht_pipeline.defs.schedules import RANGE_END, RANGE_START

    outcome = Outcome()
    days = sum((last - first).days + 1 for first, last in spans)
    with open_dagster(settings) as instance, _alerts(instance, settings), _progress(days) as tell:
        if not settings.dagster_home_is_given:  # the runs of a given one may be executed anywhere
            end_runs_of_the_dead(instance)

        def announce(key: dg.AssetKey, done: Done[Any]) -> None:
            if key != SEGMENTS:  # a day whose pull failed is told of here, too
                return
            day = str(done.day)
            if done.result is None:
                outcome.failures[day] = str(done.failure)
                tell(f"{day}  failed: {done.failure}")
            else:
                load = done.result.load
                outcome.loaded[day] = load.loaded
                tell(
                    f"{day}  {outcome.loaded[day]:>9,} segments: {load.inserted:,} new, {load.updated:,} updated, "
                    f"{load.unchanged:,} unchanged, {load.rejected:,} rejected"
                    f"{'' if load.settled else ' (provisional)'}"
                )

        silent = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        job = build_defs(settings, announce).resolve_implicit_global_asset_job_def()
        for first, last in spans:
            if outcome.is_interrupted:
                _note_what_never_ran(outcome, first, last, _INTERRUPTED)
                continue
            result = job.execute_in_process(
                instance=instance,
                asset_selection=[SEGMENTS] if replay else [RAW, SEGMENTS],
                tags={RANGE_START: str(first), RANGE_END: str(last)} | this_process(),
                run_config=silent,
                raise_on_error=False,
            )
            if not result.success:
                outcome.is_interrupted, reason = _end_of_a_failed_run(result)
                _note_what_never_ran(outcome, first, last, reason)
        materialise_alone = partial(
            job.execute_in_process,
            instance=instance,
            tags=this_process(),
            run_config=silent,
            raise_on_error=False,
        )
        names = names and bool(outcome.loaded)  # where no day came through, the API gives no names either
        if names and not outcome.is_interrupted:
            _tell_which_names_failed(materialise_alone(asset_selection=list(NAMES)))
        if roll_up and not outcome.is_interrupted and not materialise_alone(asset_selection=[ROLLUPS]).success:
            click.echo(
                "aht-pipeline: the rollups of the reports could not be refreshed; its run in the UI says why. The "
                "reports are right all the same, and slower",
                err=True,
            )
    _tell_the_end(outcome, days)
    return outcome


@contextmanager
def _alerts(instance: dg.DagsterInstance, settings: Settings) -> Iterator[None]:
    """Tell of what fails meanwhile, as the daemon would: a scheduled `load` may be all that runs here."""
    if not settings.alert_webhook_url:
        yield
        return
    from aht_pipeline.defs import alerts

    alerts.begin(instance, settings)
    yield
    try:
        alerts.tell_of_runs(instance, settings)
        alerts.tell_of_gaps(instance, settings)
    except AhtError as failure:  # the days are loaded all the same
        click.echo(f"aht-pipeline: {failure}", err=True)


def _end_of_a_failed_run(result: dg.ExecuteInProcessResult) -> tuple[bool, str]:
    """Whether it was interrupted, and why the days failed that it never came to."""
    errors = [event.step_failure_data.error for event in result.all_events if event.is_step_failure]
    error = next((error.cause or error for error in errors if error), None)
    if error is None or error.cls_name == "DagsterExecutionInterruptedError":
        return not errors or error is not None, _INTERRUPTED
    return False, error.message.strip()


def _note_what_never_ran(outcome: Outcome, first: date, last: date, reason: str) -> None:
    """A run that ended before its days were tried (it was interrupted, the warehouse went away) fails each of them."""
    untried = [day for day in date_range(first, last) if str(day) not in outcome.loaded | outcome.failures]
    outcome.failures |= {str(day): reason for day in untried}
    for begin, end in ranges(untried):
        click.echo(f"{begin}{f' to {end}' if end > begin else ''}  failed: {reason}", err=True)


def _tell_which_names_failed(result: dg.ExecuteInProcessResult) -> None:
    """In one line: the days are loaded all the same."""
    if result.success:
        return
    reasons = []
    for event in result.all_events:
        if event.is_step_failure:
            failure = event.step_failure_data.user_failure_data
            reasons.append(f"{event.step_key}: {failure.description if failure else event.message}")
    told = " ".join("; ".join(reasons or ["the run was interrupted"]).split())
    click.echo(f"aht-pipeline: not all names could be read, and reports show what was known, or ids: {told}", err=True)


def _given_span(settings: Settings, first: date | None, last: date | None) -> Span | None:
    """The asked-for days. Raises SettingsError, naming the allowed range, for a day outside it."""
    start, end = settings.start_date, yesterday(settings.timezone, datetime.now(UTC))
    if first is None and last is None:
        return None
    span = (first or start, last or end)
    for day in span:
        if not start <= day <= end:
            raise SettingsError(
                f"{day} cannot be loaded: days from {start} (the start date) to {end} (yesterday in "
                f"{settings.timezone}) can"
            )
    if span[0] > span[1]:
        raise SettingsError(f"--from {span[0]} comes after --to {span[1]}: days from {start} to {end} can be loaded")
    return span


def _spans_of_the_night(settings: Settings) -> list[Span]:
    from aht_pipeline.defs.schedules import ranges_of_the_night

    return ranges_of_the_night(settings, datetime.now(UTC))


@contextmanager
def _progress(days: int) -> Iterator[Callable[[str], None]]:
    """Something that takes a line a day: above a progress bar on a terminal, plain elsewhere."""
    # Dagster catches what a run writes to stdout, and a bar needs a terminal: so a way out of our own.
    out = os.dup(sys.stdout.fileno()) if sys.stdout else os.open(os.devnull, os.O_WRONLY)
    if not os.isatty(out):
        _write(out, f"Loading {days} {'day' if days == 1 else 'days'} ...")
        yield partial(_write, out)
        os.close(out)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("loading"), BarColumn(), MofNCompleteColumn(), TextColumn("days"), TimeElapsedColumn())
    with os.fdopen(out, "w", encoding="utf-8") as terminal:
        console = Console(file=terminal, force_terminal=True)
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("load", total=days)

            def tell(line: str) -> None:
                console.print(line, highlight=False, markup=False, soft_wrap=True)
                progress.advance(task)

            yield tell


def _write(out: int, line: str) -> None:
    with suppress(OSError):  # whoever listened has gone, or a log's disk is full: the days are loaded all the same
        os.write(out, f"{line}\n".encode())


def _tell_the_end(outcome: Outcome, days: int) -> None:
    segments = sum(outcome.loaded.values())
    say(f"{len(outcome.loaded)} of {days} days are complete, with {segments:,} segments.")
    if outcome.failures:
        click.echo(f"{len(outcome.failures)} failed: {', '.join(sorted(outcome.failures))}", err=True)
