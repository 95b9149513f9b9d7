"""A figure: samples of both sides, the one number that is made of them, and the goal it is held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Samples = Mapping[str, Sequence[float]]


class WrongResult(Exception):
    """A side did not do what it was measured for: its time would mean nothing."""


@dataclass(frozen=True)
class Figure:
    """What is held against what.

    value: the one number, in `unit`. goal: the bound it should keep, as text; met: whether it does (None: no bound).
    timed: whether the value depends on the machine's speed; what does not must hold on every machine and at any size.
    samples: the measurements behind it, in `sample_unit`, by side.
    table_rows: where on a curve it lies.
    """

    what: str
    against: str
    value: float
    unit: str
    goal: str
    met: bool | None
    timed: bool
    samples: Samples
    sample_unit: str = "s"
    table_rows: int | None = None


def ratio_at_most(limit: float, what: str, against: str, ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    """How many times the other side's median ours takes."""
    value = median(ours) / median(theirs)
    samples = {"ours": ours, "theirs": theirs}
    return Figure(what, against, value, "times", f"at most {limit:g}", value <= limit, True, samples)


def faster_at_least(limit: float, what: str, against: str, ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    """How many times ours the other side's median takes."""
    value = median(theirs) / median(ours)
    samples = {"ours": ours, "theirs": theirs}
    return Figure(what, against, value, "times faster", f"at least {limit:g}", value >= limit, True, samples)


def at_most(
    limit: float, unit: str, what: str, against: str, values: Sequence[float], *, timed: bool = False
) -> Figure:
    """The median of what was measured."""
    value = median(values)
    return Figure(what, against, value, unit, f"at most {limit:g}", value <= limit, timed, {"ours": values}, unit)


def check(holds: bool, what: str) -> None:
    """Raise WrongResult unless this holds."""
    if not holds:
        raise WrongResult(what)
