"""Marks as failed the runs that an earlier start of the daemon left unfinished; each is then run again, once.

After a power cut Dagster takes them for running, and lets the nights wait for their end until `max_runtime_seconds`.
To be run while no daemon runs. Runs of an `aht-pipeline load` whose process lives are left alone.
"""

from __future__ import annotations

import dagster as dg
import psutil

TAKEN_FOR_RUNNING = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def main() -> None:
    with dg.DagsterInstance.get() as instance:
        for run in instance.get_runs(filters=dg.RunsFilter(statuses=TAKEN_FOR_RUNNING)):
            process = run.tags.get("aht_pipeline/process")  # of a load by hand: its number and its start
            if process is None or not psutil.pid_exists(int(process.split("_")[0])):
                instance.report_run_failed(run, "The process that executed this run was killed.")
                print(f"ended run {run.run_id}, whose process was killed")


if __name__ == "__main__":
    main()
