"""The `aht-pipeline` command: names, options, help and exit codes. What a command does is in `commands`."""

from __future__ import annotations

import errno
import logging
import sys
from datetime import date, datetime
from pathlib import Path
from typing import Any, NoReturn

import click

from aht_pipeline.errors import AhtError, CannotTell, SettingsError

_FAILED = 1
_OF_STDOUT = (errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF)
_WRONG = 2  # usage, settings, or a state that does not let the command begin


class _Day(click.ParamType[date]):
    name = "day"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        try:
            return date.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no day: write it as 2026-11-20", param, ctx)


class _Time(click.ParamType[datetime]):
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no time: write it as 2026-11-20T09:30:00Z, or as a day", param, ctx)


class _Commands(click.Group):
    """Tells a foreseen failure in its own words, and nothing else."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (SettingsError, CannotTell) as error:
            _stop(error, _WRONG)
        except AhtError as error:
            _stop(error, _FAILED)
        except OSError as error:
            _stop_for_a_file(error)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [*self.commands, "simulator"]  # in the order in which one needs them

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "simulator":
            return super().get_command(ctx, cmd_name)
        from aht_pipeline.simulator.command import simulator

        return simulator


def _stop_for_a_file(error: OSError) -> NoReturn:
    """A reader that goes away, as `head` does, has what it wanted; a path that cannot be used was set wrong."""
    from aht_pipeline.commands.output import let_go_of_stdout

    if error.filename is None:
        if error.errno not in _OF_STDOUT:
            raise error
        if sys.stdout:
            let_go_of_stdout()
    if isinstance(error, BrokenPipeError):
        sys.exit(0)
    place = error.filename or "stdout"
    _stop(
        AhtError(f"{place}: {error.strerror}. (AHT_HOME, AHT_ARCHIVE_URL and DAGSTER_HOME say where things are.)"),
        _WRONG,
    )


def _stop(error: AhtError, code: int) -> NoReturn:
    click.echo("\n".join(f"aht-pipeline: {line}" for line in str(error).splitlines()), err=True)
    sys.exit(code)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="aht-pipeline")
def main() -> None:
    """LivePerson Actual Handle Time, every night, complete and right, in your Postgres warehouse.

    Start with `aht-pipeline demo`: it needs no account and no server. For your own account, copy .env.example to .env,
    fill it in, and run `aht-pipeline doctor`. With neither LivePerson credentials nor WAREHOUSE_URL set, every command
    works on the demo.
    """
    logging.basicConfig(level=logging.WARNING, format="aht-pipeline: %(message)s")


@main.command()
def demo() -> None:
    """Load 14 days of simulated segments into a Postgres of its own, and report on them.

    Needs no account and no server: it starts an embedded Postgres and a local AHT API, migrates, materialises the last
    14 complete days through Dagster, and ends. The embedded Postgres stays up until `aht-pipeline down`.
    """
    from aht_pipeline.commands.demo import run_demo

    sys.exit(run_demo())


@main.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Exactly this port; without it 3000, or the next free one.")
def up(port: int | None) -> None:
    """Run the Dagster UI and daemon, with the nightly schedule, until Ctrl-C.

    Nothing is loaded before the schedule's first tick, which fills every day since the start date. Listens on 127.0.0.1
    only.
    """
    from aht_pipeline.commands.up import run_up

    sys.exit(run_up(port))


@main.command()
def down() -> None:
    """Stop the embedded servers, and anything that `up` or `demo` left running."""
    from aht_pipeline.commands.up import run_down

    run_down()


@main.command()
def migrate() -> None:
    """Bring the warehouse to the newest migration, as the role of WAREHOUSE_ADMIN_URL where that is set."""
    from aht_pipeline.commands.migrate import run_migrate

    run_migrate()


@main.command()
@click.option("--from", "first", type=_Day(), help="First day, in AHT_TIMEZONE. Default: the start date.")
@click.option("--to", "last", type=_Day(), help="Last day, itself in. Default: yesterday.")
@click.option("--replay", is_flag=True, help="Read each day's latest complete pull from the archive, not the API.")
def load(first: date | None, last: date | None, replay: bool) -> None:
    """Load days through Dagster, so that its UI shows them.

    Without days: what the nightly run would do, the trailing days and every one that is missing or not settled. Loading
    a day again is safe: it updates what changed and doubles nothing. Exits 1 when a day failed; the others are loaded.
    """
    from aht_pipeline.commands.load import run_load

    sys.exit(run_load(first, last, replay))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, and nothing else.")
def status(as_json: bool) -> None:
    """Show every day since the start date: settled, provisional, missing or lost.

    Exits 1 when a day that can still be fetched is missing, 2 when it cannot tell.
    """
    from aht_pipeline.commands.status import run_status

    sys.exit(run_status(as_json))


@main.command()
@click.option("--from", "first", type=_Day(), help="First day. Default: 27 days before --to.")
@click.option("--to", "last", type=_Day(), help="Last day. Default: yesterday.")
@click.option(
    "--html", "file", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The page to write."
)
def report(first: date | None, last: date | None, file: Path) -> None:
    """Write a page with charts and tables of these days, for people who do not write SQL.

    One file that needs no network and no script: mail it, print it, put it on a share. It needs the extra `report`
    (`pip install '.[report]'`), and reads the schema `reporting` only.
    """
    from aht_pipeline.commands.report import run_report

    sys.exit(run_report(first, last, file))


@main.command()
def doctor() -> None:
    """Check settings, credentials, API, warehouse, migrations, archive and Dagster; say how to mend what is wrong."""
    from aht_pipeline.commands.doctor import run_doctor

    sys.exit(run_doctor())


@main.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--url", is_flag=True, help="Print the warehouse's URL, password included, instead.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[PSQL ARGUMENTS]...")
def psql(url: bool, arguments: tuple[str, ...]) -> None:
    """Open psql on the warehouse, embedded or not. What follows is given to psql.

    For example: aht-pipeline psql -c 'select * from reporting.skill_day'
    """
    from aht_pipeline.commands.psql import run_psql

    run_psql(url, arguments)


@main.command()
@click.option(
    "--profile",
    type=click.Choice(["generic", "genesys", "injixo"]),
    required=True,
    help="Who reads it: anyone, Genesys Cloud's or injixo's import of historical data.",
)
@click.option("--from", "first", type=_Day(), help="First day, in the account's zone. Default: the first settled day.")
@click.option("--to", "last", type=_Day(), help="Last day, itself in. Default: the last settled day.")
@click.option(
    "--offered-from-concluded",
    is_flag=True,
    help="Write concluded segments as offered, which LivePerson does not say. genesys and injixo need it.",
)
def export(profile: str, first: date | None, last: date | None, offered_from_concluded: bool) -> None:
    """Write handle time by skill and quarter of an hour as CSV, for workforce planning.

    Settled days only, where a segment closed; filed under its close time. Days of the range that are not settled are
    named on stderr; exits 1 when none is. What the columns mean is in docs/reporting.md.
    """
    from aht_pipeline.commands.export import run_export

    sys.exit(run_export(profile, first, last, offered_from_concluded))


@main.command()
@click.option("--from", "first", type=_Time(), help="Earliest close time. Default: 24 hours before --to.")
@click.option("--to", "last", type=_Time(), help="Latest close time. Default: now.")
@click.option("--conversation", metavar="ID")
@click.option("--agent", metavar="ID")
@click.option("--employee", metavar="ID")
@click.option("--skill", metavar="ID")
@click.option("--group", metavar="ID")
@click.option(
    "--sort",
    type=click.Choice(["Date", "Conversation", "Agent", "Employee", "Skill", "Group"], case_sensitive=False),
    help="The API does not say in which direction.",
)
def segments(
    first: datetime | None,
    last: datetime | None,
    conversation: str | None,
    agent: str | None,
    employee: str | None,
    skill: str | None,
    group: str | None,
    sort: str | None,
) -> None:
    """Print what the API holds now, as JSON lines; stores nothing.

    For disputes: is this conversation there? Times without an offset are in AHT_TIMEZONE. Exits 1 when the API fails.
    """
    from aht_pipeline.commands.segments import Filters, run_segments

    run_segments(first, last, Filters(conversation, agent, employee, skill, group, sort))
