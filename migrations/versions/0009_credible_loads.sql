-- A pull that cannot have begun when it says was pulled by a clock that was ahead. Its day is not settled by it, and it is
-- no newer than any other.

CREATE VIEW aht.credible_loads AS
SELECT load.*
FROM aht.loads AS load
WHERE load.pulled_at <= least(now(), load.loaded_at) + interval '2 minutes'
    -- Nor may it have begun after a later load of its day, whose own times are possible: they follow each other.
    AND NOT EXISTS (
        SELECT
        FROM aht.loads AS later
        WHERE later.account_id = load.account_id AND later.day = load.day AND later.load_id > load.load_id
            AND later.loaded_at + interval '2 minutes' < load.pulled_at
            AND later.pulled_at <= later.loaded_at + interval '2 minutes'
    );

COMMENT ON VIEW aht.credible_loads IS 'The lines of the ledger whose pull can have begun when it says. The clock of the others was ahead: they settle nothing, and count as older than any other';

-- Its columns are those of the ledger.
DO $$
DECLARE
    kept record;
BEGIN
    FOR kept IN
        SELECT attname AS name, col_description(attrelid, attnum) AS text
        FROM pg_attribute
        WHERE attrelid = 'aht.loads'::regclass AND attnum > 0 AND NOT attisdropped
    LOOP
        EXECUTE format('COMMENT ON COLUMN aht.credible_loads.%I IS %L', kept.name, kept.text);
    END LOOP;
END $$;

-- As before, but for what settles a day, and for the load that is taken for its latest.
CREATE OR REPLACE VIEW reporting.day_coverage AS
WITH known_day AS (
    SELECT account_id, day FROM aht.loads
    UNION
    SELECT account_id, day FROM aht.refused_days
),
account AS (
    SELECT account_id, min(day) AS first_day, coalesce(max(zone.timezone), 'UTC') AS timezone
    FROM known_day
    LEFT JOIN reporting.account_timezone AS zone USING (account_id)
    GROUP BY account_id
),
calendar AS (
    SELECT
        account_id,
        first_day + n AS day,
        -- Hours, not days: an interval of days would follow the clock changes of the reader's own time zone.
        ((first_day + n)::timestamp AT TIME ZONE timezone) + interval '672 hours' AS may_be_lost_after,
        ((first_day + n + 1)::timestamp AT TIME ZONE timezone) + interval '744 hours' AS is_lost_after
    FROM account
    CROSS JOIN LATERAL generate_series(0, (now() AT TIME ZONE timezone)::date - 1 - first_day) AS n
),
latest_load AS (
    SELECT DISTINCT ON (load.account_id, load.day)
        load.account_id,
        load.day,
        load.reported,
        load.inserted + load.updated + load.unchanged AS loaded,
        load.rejected,
        load.pulled_at,
        bool_or(credible.settled) OVER (PARTITION BY load.account_id, load.day) AS settled
    FROM aht.loads AS load
    LEFT JOIN aht.credible_loads AS credible USING (load_id)
    ORDER BY load.account_id, load.day, credible.load_id DESC NULLS LAST, load.load_id DESC
)
SELECT
    account_id,
    day,
    CASE
        WHEN load.settled THEN 'settled'
        WHEN load.day IS NOT NULL THEN 'provisional'
        WHEN refused.day IS NOT NULL OR now() > calendar.is_lost_after THEN 'lost'
        ELSE 'missing'
    END AS state,
    load.reported,
    load.loaded,
    load.rejected,
    load.pulled_at,
    CASE WHEN load.day IS NULL THEN calendar.may_be_lost_after END AS lost_after
FROM calendar
LEFT JOIN latest_load AS load USING (account_id, day)
LEFT JOIN aht.refused_days AS refused USING (account_id, day);
