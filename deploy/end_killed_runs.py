"""Marks as failed the runs that an earlier start of the daemon left unfinished; each is then run again, once.

After a power cut Dagster takes them for running, and lets the nights wait for their end until `max_runtime_seconds`.
To be run while no daemon runs. Runs of an `aht-pipeline load` whose process lives are left alone.
"""

import dagster as dg

from aht_pipeline.commands.remains import end_runs_of_the_dead

if __name__ == "__main__":
    with dg.DagsterInstance.get() as instance:
        for run_id in end_runs_of_the_dead(instance, and_of_the_daemon=True):
            print(f"ended run {run_id}, whose process was killed")
