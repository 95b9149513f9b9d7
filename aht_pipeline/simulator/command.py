"""`aht-pipeline simulator`: serve the simulated API until told to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from aht_pipeline.simulator.authorisation import Credentials
from aht_pipeline.simulator.calls import CallTraffic, read_calls
from aht_pipeline.simulator.fault_specs import GRAMMAR, FaultSpecError, parse_duration, parse_fault
from aht_pipeline.simulator.faults import Fault
from aht_pipeline.simulator.generated import GeneratedTraffic
from aht_pipeline.simulator.simulator import Simulator
from aht_pipeline.simulator.traffic import Traffic

_DEMO = Credentials()


def _read_duration(ctx: click.Context, param: click.Parameter, value: str) -> timedelta:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def _read_faults(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> list[Fault]:
    try:
        return [parse_fault(spec) for spec in value]
    except FaultSpecError as error:
        raise click.BadParameter(str(error), ctx, param) from None


@click.command(epilog=f"\b\n{GRAMMAR}")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The port on 127.0.0.1; 0: any free one.")
@click.option(
    "--segments",
    type=click.IntRange(min=0),
    default=2000,
    show_default=True,
    help="About so many segments close on a weekday, a third of it at weekends: the same ones whenever it is started.",
)
@click.option("--days", type=click.IntRange(min=1), help="Nothing closed earlier than so many days ago; else no bound.")
@click.option(
    "--calls",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Serve these call records instead: a CSV with date, call_id, service, agent, start, end, handle_seconds. "
    "Its dates, in order, are spread over the last 27 days; times of day are kept, as UTC.",
)
@click.option(
    "--lag",
    callback=_read_duration,
    metavar="DURATION",
    default="0",
    help="Late data: each segment appears after a delay of its own between nothing and this (30s, 6h, 1d).",
)
@click.option(
    "--fault",
    "faults",
    callback=_read_faults,
    metavar="SPEC",
    multiple=True,
    help="What goes wrong (below). Repeatable.",
)
@click.option("--max-limit", type=click.IntRange(1, 500), default=500, show_default=True, help="The greatest limit.")
@click.option("--account", default="demo", show_default=True, help="The account there is.")
@click.option("--client-id", default=_DEMO.client_id, show_default=True, help="The OAuth 2.0 client that is let in.")
@click.option("--client-secret", default=_DEMO.client_secret, show_default=True, help="Its secret: a made-up one.")
def simulator(
    port: int,
    segments: int,
    days: int | None,
    calls: Path | None,
    lag: timedelta,
    faults: list[Fault],
    max_limit: int,
    account: str,
    client_id: str,
    client_secret: str,
) -> None:
    """Serve a local AHT API, to try the pipeline without an account or to see what it does when things go wrong.

    It has the Domain API, the token endpoint, agent-segments and the lists of users, skills and agent groups, with
    their limits, errors and oddities. It prints one line with its URL and the variables that point the pipeline at it,
    and serves until Ctrl-C or SIGTERM.
    OAuth 1.0 works too, with the app key demo-app-key, its secret demo-app-secret, the access token demo-token and its
    secret demo-token-secret.

    It is our reading of LivePerson's public documentation, and was never checked against a live account: what works
    here agrees with that reading, no more.

    For example, two failing requests, a slow server and data that is up to six hours late:

    \b
      aht-pipeline simulator --port 8700 --fault 500:first=2 --fault latency=30ms --lag 6h
    """
    with _until_told_to_stop() as told_to_stop:
        served = Simulator(
            _traffic(account, segments, days, calls),
            account,
            credentials=Credentials(client_id=client_id, client_secret=client_secret),
            lag=lag,
            faults=faults,
            max_limit=max_limit,
            port=port,
        )
        with served:
            click.echo(f"AHT simulator on {served.url}  {_shown(served)}")
            told_to_stop.wait()


def _traffic(account: str, segments: int, days: int | None, calls: Path | None) -> Traffic:
    today = datetime.now(UTC).date()
    if calls is not None:
        return CallTraffic(read_calls(calls, account, today))
    first_day = None if days is None else today - timedelta(days=days)
    return GeneratedTraffic(account, segments, first_day=first_day)


def _shown(served: Simulator) -> str:
    """The variables to set, ready to paste; a secret other than the well-known one is not printed."""
    variables = served.variables
    if served.credentials.client_secret != _DEMO.client_secret:
        variables["LIVEPERSON_CLIENT_SECRET"] = "<as-given>"  # noqa: S105 - says that it is not shown
    return " ".join(f"{name}={value}" for name, value in variables.items())


@contextmanager
def _until_told_to_stop() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set."""
    told = threading.Event()
    before = {number: signal.signal(number, lambda *_: told.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
