"""What was measured, kept as JSON, and shown from that as a table in Markdown and as plots."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.figures import Figure

_JSON, _TABLE = "results.json", "results.md"
_PACKAGES = ("aht-pipeline", "dagster", "pandas", "pyarrow", "msgspec", "psycopg2-binary", "sqlalchemy", "requests")


def keep(folder: Path, name: str, figures: Sequence[Figure], circumstances: dict[str, Any]) -> None:
    """Put the figures of one benchmark among those of the others, in the place of its last ones."""
    folder.mkdir(parents=True, exist_ok=True)
    everything = _read(folder)
    everything[name] = {"circumstances": circumstances, "figures": [asdict(figure) for figure in figures]}
    (folder / _JSON).write_text(json.dumps(everything, indent=1, default=list) + "\n")
    (folder / _TABLE).write_text(_document(everything))


def circumstances(postgres: str, rounds: int, peers: Sequence[str]) -> dict[str, Any]:
    """On what machine, with which versions of what."""
    return {
        "measured": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": _commit(),
        "rounds": rounds,
        "machine": f"{_processor()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, "
        f"{platform.system()} {platform.release()}",
        "versions": ", ".join(
            [
                f"Python {platform.python_version()}",
                f"PostgreSQL {postgres}",
                *(f"{name} {version(name)}" for name in _PACKAGES),
                *peers,
            ]
        ),
    }


def line(figure: Figure, *, smoke: bool) -> str:
    """A figure in one line, for a terminal. Tiny sizes say nothing of what is timed."""
    verdict = {True: "met   ", False: "MISSED", None: "      "}[None if smoke and figure.timed else figure.met]
    return f"{verdict} {figure.value:>9.3g} {figure.unit} ({figure.goal})  {figure.what} / {figure.against}"


def plot(folder: Path) -> bool:
    """Draw every benchmark of the folder as SVG; False where matplotlib is not installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "aht-pipeline"  # the same figures make the same file
    for name, kept in _read(folder).items():
        (_plot_curve if name == "growth" else _plot_sides)(folder / f"{name}.svg", name, kept["figures"])
    return True


def _plot_sides(file: Path, name: str, figures: list[dict[str, Any]]) -> None:
    """Each sample a dot, each median a bar; one panel for each figure that has two sides."""
    from matplotlib import pyplot as plt

    figures = [figure for figure in figures if len(figure["samples"]) > 1]
    if not figures:
        return
    drawing, panels = plt.subplots(len(figures), 1, figsize=(9, 1.6 * len(figures) + 0.6), squeeze=False)
    for panel, figure in zip(panels[:, 0], figures, strict=True):
        for row, samples in enumerate(figure["samples"].values()):
            panel.barh(row, median(samples), color="#4c78a8" if row == 0 else "#c5c9d0", height=0.6)
            panel.plot(samples, [row] * len(samples), "o", color="#222222", markersize=3)
        panel.set_yticks(range(len(figure["samples"])), list(figure["samples"]))
        panel.invert_yaxis()
        panel.set_xlim(left=0)
        panel.set_xlabel(figure["sample_unit"], fontsize=7)
        panel.set_title(f"{figure['what']} / {figure['against']}: {_value(figure)} ({figure['goal']})", fontsize=7)
        panel.tick_params(labelsize=7)
    drawing.suptitle(name, fontsize=9)
    drawing.tight_layout()
    drawing.savefig(file, metadata={"Date": None})
    plt.close(drawing)


def _plot_curve(file: Path, name: str, figures: list[dict[str, Any]]) -> None:
    """Seconds over the size of the table, for both sides."""
    from matplotlib import pyplot as plt

    drawing, panel = plt.subplots(figsize=(9, 4.5))
    sizes = [figure["table_rows"] / 1e6 for figure in figures]
    for side in figures[0]["samples"]:
        panel.plot(sizes, [median(figure["samples"][side]) for figure in figures], "o-", label=side)
    panel.set_xlabel("rows in the table, millions")
    panel.set_ylabel("s")
    panel.set_ylim(bottom=0)
    panel.set_title(f"{name}: new rows of a day into a growing table, medians", fontsize=9)
    panel.legend()
    drawing.tight_layout()
    drawing.savefig(file, metadata={"Date": None})
    plt.close(drawing)


def _document(everything: dict[str, Any]) -> str:
    lines = [
        "# What was measured",
        "",
        "Written by `python -m benchmarks`; [README.md](../README.md) says what each figure means. Values are made of "
        "medians; every sample is in results.json.",
        "",
    ]
    for name, kept in everything.items():
        lines += [
            f"## {name}",
            "",
            "| what | against | to reach | measured | medians |",
            "| --- | --- | --- | --- | --- |",
        ]
        lines += [_row(figure) for figure in kept["figures"]]
        lines += ["", *(f"- {what}: {said}" for what, said in kept["circumstances"].items()), ""]
    return "\n".join(lines)


def _row(figure: dict[str, Any]) -> str:
    medians = ", ".join(
        f"{side} {median(samples):.3g} {figure['sample_unit']}" for side, samples in figure["samples"].items()
    )
    missed = " (missed)" if figure["met"] is False else ""
    return f"| {figure['what']} | {figure['against']} | {figure['goal']} | **{_value(figure)}**{missed} | {medians} |"


def _value(figure: dict[str, Any]) -> str:
    return f"{figure['value']:.3g} {figure['unit']}"


def _read(folder: Path) -> dict[str, Any]:
    file = folder / _JSON
    kept: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return kept


def _commit() -> str:
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return told.stdout.strip() or "not in a git checkout"


def _processor() -> str:
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        for entry in cpu_info.read_text().splitlines():
            if entry.startswith("model name"):
                return entry.partition(":")[2].strip()
    return platform.processor() or platform.machine()
