"""`demo`: from nothing to two weeks of segments in Postgres, in one command."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from aht_pipeline.commands.configured import configured_demo
from aht_pipeline.commands.load import materialise
from aht_pipeline.commands.output import say
from aht_pipeline.days import yesterday
from aht_pipeline.home import open_warehouse

_DAYS = 14

_BY_SKILL = sa.text(
    """
    SELECT skill_name, sum(segments) AS segments, sum(total_handle_time_seconds) AS seconds
    FROM reporting.skill_day
    WHERE close_date BETWEEN :first AND :last
    GROUP BY skill_id, skill_name
    ORDER BY seconds DESC
    """
)


def run_demo() -> int:
    """0 when all days are complete. Nothing but the demo's own home is touched, whatever is configured."""
    began = time.monotonic()
    settings = configured_demo()
    say("The AHT API is played by a simulator: our reading of LivePerson's public documentation.")
    warehouse = open_warehouse(settings)
    last = yesterday(settings.timezone, datetime.now(UTC))
    first = last - timedelta(days=_DAYS - 1)
    outcome = materialise(settings, [(first, last)], names=True)
    if outcome.failures:
        return 1
    with warehouse.connect() as connection:
        rows = connection.execute(_BY_SKILL, {"first": first, "last": last}).all()
    say(f"\nHandle time by skill, {first} to {last}, from reporting.skill_day:\n")
    say(f"{'skill':<18}{'segments':>12}{'hours':>10}{'average':>10}")
    for row in rows:
        average = f"{row.seconds / row.segments:.0f} s"
        say(f"{row.skill_name or 'none':<18}{row.segments:>12,}{row.seconds / 3600:>10,.1f}{average:>10}")
    say(f"\nDone in {time.monotonic() - began:.0f} s. {_NEXT}")
    return 0


_NEXT = """Try next:

  aht-pipeline psql -c 'select * from reporting.agent_day limit 5'    SQL on it
  aht-pipeline up                                                     the Dagster UI
  aht-pipeline load                                                   what a night does: the older days too
  aht-pipeline status                                                 which days are there
  aht-pipeline down                                                   stop the embedded Postgres

For your own account: copy .env.example to .env, fill it in, and run aht-pipeline doctor."""
