"""Runs whose process was killed: Dagster takes them for running, for six hours, and lets others wait for their end."""

from __future__ import annotations

import dagster as dg
import psutil

_PROCESS = "aht_pipeline/process"
_TAKEN_FOR_RUNNING = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def this_process() -> dict[str, str]:
    """The tag of a run that this process executes itself."""
    return {_PROCESS: _name(psutil.Process())}


def end_runs_of_the_dead(instance: dg.DagsterInstance, *, and_of_the_daemon: bool = False) -> list[str]:
    """Mark as failed each run that a process executed which is no more, so that it keeps no place in the queue.

    and_of_the_daemon: also the runs that no command tagged as its own; for when no daemon is running.
    Only for an instance whose runs are all executed on this machine. Returns the ids of the runs.
    """
    ended = []
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=_TAKEN_FOR_RUNNING)):
        process = run.tags.get(_PROCESS)
        if and_of_the_daemon if process is None else not _lives(process):
            instance.report_run_failed(run, "The process that executed this run was killed.")
            ended.append(run.run_id)
    return ended


def _name(process: psutil.Process) -> str:
    """Its number and its start, for numbers are used again."""
    return f"{process.pid}_{process.create_time()}"


def _lives(name: str) -> bool:
    try:
        return _name(psutil.Process(int(name.split("_")[0]))) == name
    except psutil.NoSuchProcess:
        return False
