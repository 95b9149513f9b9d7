"""`python -m benchmarks`: measure, show, keep."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

from benchmarks import backfill, commands, fresh, growth, latency, memory, parsing, reporting, results, warehouse_rows
from benchmarks.figures import Figure, WrongResult
from benchmarks.peers import PEERS
from benchmarks.rig import Rig, open_rig

_BENCHMARKS: dict[str, Callable[[Rig, Callable[[str], None]], list[Figure]]] = {
    "commands": commands.measure,
    "parsing": parsing.measure,
    "latency": latency.measure,
    "fresh": fresh.measure,
    "memory": memory.measure,
    "backfill": backfill.measure,
    "rows": warehouse_rows.measure,
    "growth": growth.measure,
    "reporting": reporting.measure,
}
_RESULTS = Path(__file__).parent / "results"


def _teach() -> str:
    names = "\n".join(
        f"  {name:<9} {str(sys.modules[measure.__module__].__doc__).splitlines()[0]}"
        for name, measure in _BENCHMARKS.items()
    )
    return f"\b\nNAMES, all of them where none is given:\n{names}"


@click.command(epilog=_teach(), context_settings={"max_content_width": 120})
@click.argument("names", nargs=-1, type=click.Choice(list(_BENCHMARKS)), metavar="[NAMES]...")
@click.option("--smoke", is_flag=True, help="Tiny sizes and one round: what is loaded is checked, times mean nothing.")
@click.option("--rounds", type=click.IntRange(min=1), help="Samples of each side; 5 without it, 1 with --smoke.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where results.md, results.json and the plots go. benchmarks/results without it, nowhere with --smoke.",
)
@click.option("--install-peers", is_flag=True, help="Only install the other loaders, into ~/.cache, and end.")
def main(names: tuple[str, ...], smoke: bool, rounds: int | None, output: Path | None, install_peers: bool) -> None:
    """Measure what the pipeline costs, on this machine, in turns with what it is compared to.

    It needs nothing but this checkout, installed with `pip install -e '.[bench]'`: it starts a Postgres server and
    simulators of its own, in ~/.cache/aht-pipeline-benchmarks (up to 25 GB for `reporting`), and removes
    them. All of it takes two hours of a quiet machine; benchmarks/README.md says what each figure means.

    Results of one benchmark replace its last ones and leave those of others alone. Exits with 1 when a goal was
    missed (with --smoke: one that does not depend on time).

    \b
      python -m benchmarks --smoke
      python -m benchmarks commands parsing
      python -m benchmarks --install-peers && python -m benchmarks fresh --rounds 7
    """
    if install_peers:
        for peer in PEERS:
            click.echo(f"Installing {peer.label} ...")
            peer.install()
        return
    rounds = rounds or (1 if smoke else 5)
    folder = output or (None if smoke else _RESULTS)
    missed = False
    with open_rig(rounds, smoke=smoke) as rig:
        for name in names or _BENCHMARKS:
            click.echo(f"{name} ...")
            try:
                figures = _BENCHMARKS[name](rig, _say)
            except WrongResult as wrong:
                raise click.ClickException(f"{name}: {wrong}") from wrong
            for figure in figures:
                click.echo(f"  {results.line(figure, smoke=smoke)}")
            missed |= any(figure.met is False and not (smoke and figure.timed) for figure in figures)
            if folder:
                peers = [said for peer in PEERS if name == "fresh" and peer.is_installed for said in peer.versions()]
                results.keep(folder, name, figures, results.circumstances(rig.postgres_version(), rounds, peers))
    if folder and not results.plot(folder):
        _say("no plots: pip install -e '.[bench]' brings matplotlib")
    sys.exit(1 if missed else 0)


def _say(line: str) -> None:
    click.echo(f"  {line}", err=True)


main()
