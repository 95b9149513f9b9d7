-- What reports read. The views run with their owner's rights: a reader needs rights on this schema only.

DO $$
BEGIN
    IF to_regnamespace('reporting') IS NULL THEN
        CREATE SCHEMA reporting;
        COMMENT ON SCHEMA reporting IS 'Actual handle time by day, for reports; averages stand beside their sum and count';
    END IF;
END $$;

CREATE VIEW reporting.account_timezone AS
SELECT DISTINCT ON (account_id) account_id, timezone
FROM aht.loads
ORDER BY account_id, load_id DESC;

COMMENT ON VIEW reporting.account_timezone IS 'The time zone in which an account''s days begin, as of its latest load';
COMMENT ON COLUMN reporting.account_timezone.account_id IS 'LivePerson account';
COMMENT ON COLUMN reporting.account_timezone.timezone IS 'IANA name of the time zone';

CREATE VIEW reporting.agent_day AS
SELECT
    account_id,
    (segment.end_time AT TIME ZONE zone.timezone)::date AS close_date,
    segment.agent_id,
    count(*) AS segments,
    round(sum(segment.total_handle_time_ms) / 1000, 3) AS total_handle_time_seconds,
    round(sum(segment.total_handle_time_ms) / 1000 / count(*), 3) AS avg_handle_time_seconds
FROM aht.agent_segments AS segment
JOIN reporting.account_timezone AS zone USING (account_id)
GROUP BY account_id, close_date, segment.agent_id;

COMMENT ON VIEW reporting.agent_day IS 'Actual handle time by agent and day; average over days with sum(total_handle_time_seconds) / sum(segments)';
COMMENT ON COLUMN reporting.agent_day.account_id IS 'LivePerson account';
COMMENT ON COLUMN reporting.agent_day.close_date IS 'Day on which the segments closed, in the account''s time zone';
COMMENT ON COLUMN reporting.agent_day.agent_id IS 'LivePerson''s id of the agent';
COMMENT ON COLUMN reporting.agent_day.segments IS 'Segments that closed';
COMMENT ON COLUMN reporting.agent_day.total_handle_time_seconds IS 'Sum of their actual handle time, in seconds';
COMMENT ON COLUMN reporting.agent_day.avg_handle_time_seconds IS 'Actual handle time of one segment: sum over count, in seconds; never average these averages';

CREATE VIEW reporting.skill_day AS
SELECT
    account_id,
    (segment.end_time AT TIME ZONE zone.timezone)::date AS close_date,
    segment.skill_id,
    count(*) AS segments,
    round(sum(segment.total_handle_time_ms) / 1000, 3) AS total_handle_time_seconds,
    round(sum(segment.total_handle_time_ms) / 1000 / count(*), 3) AS avg_handle_time_seconds
FROM aht.agent_segments AS segment
JOIN reporting.account_timezone AS zone USING (account_id)
GROUP BY account_id, close_date, segment.skill_id;

COMMENT ON VIEW reporting.skill_day IS 'Actual handle time by skill and day; average over days with sum(total_handle_time_seconds) / sum(segments)';
COMMENT ON COLUMN reporting.skill_day.account_id IS 'LivePerson account';
COMMENT ON COLUMN reporting.skill_day.close_date IS 'Day on which the segments closed, in the account''s time zone';
COMMENT ON COLUMN reporting.skill_day.skill_id IS 'LivePerson''s id of the skill; null: the segments without one';
COMMENT ON COLUMN reporting.skill_day.segments IS 'Segments that closed';
COMMENT ON COLUMN reporting.skill_day.total_handle_time_seconds IS 'Sum of their actual handle time, in seconds';
COMMENT ON COLUMN reporting.skill_day.avg_handle_time_seconds IS 'Actual handle time of one segment: sum over count, in seconds; never average these averages';

CREATE VIEW reporting.group_day AS
SELECT
    account_id,
    (segment.end_time AT TIME ZONE zone.timezone)::date AS close_date,
    segment.group_id,
    count(*) AS segments,
    round(sum(segment.total_handle_time_ms) / 1000, 3) AS total_handle_time_seconds,
    round(sum(segment.total_handle_time_ms) / 1000 / count(*), 3) AS avg_handle_time_seconds
FROM aht.agent_segments AS segment
JOIN reporting.account_timezone AS zone USING (account_id)
GROUP BY account_id, close_date, segment.group_id;

COMMENT ON VIEW reporting.group_day IS 'Actual handle time by agent group and day; average over days with sum(total_handle_time_seconds) / sum(segments)';
COMMENT ON COLUMN reporting.group_day.account_id IS 'LivePerson account';
COMMENT ON COLUMN reporting.group_day.close_date IS 'Day on which the segments closed, in the account''s time zone';
COMMENT ON COLUMN reporting.group_day.group_id IS 'LivePerson''s id of the agent group; null: the segments without one';
COMMENT ON COLUMN reporting.group_day.segments IS 'Segments that closed';
COMMENT ON COLUMN reporting.group_day.total_handle_time_seconds IS 'Sum of their actual handle time, in seconds';
COMMENT ON COLUMN reporting.group_day.avg_handle_time_seconds IS 'Actual handle time of one segment: sum over count, in seconds; never average these averages';

CREATE VIEW reporting.day_coverage AS
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
    SELECT DISTINCT ON (account_id, day)
        account_id,
        day,
        reported,
        inserted + updated + unchanged AS loaded,
        rejected,
        pulled_at,
        bool_or(settled) OVER (PARTITION BY account_id, day) AS settled
    FROM aht.loads
    ORDER BY account_id, day, load_id DESC
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

COMMENT ON VIEW reporting.day_coverage IS 'Every day from the first that was loaded or refused to yesterday, and whether its data is complete';
COMMENT ON COLUMN reporting.day_coverage.account_id IS 'LivePerson account';
COMMENT ON COLUMN reporting.day_coverage.day IS 'Day, in the account''s time zone';
COMMENT ON COLUMN reporting.day_coverage.state IS 'settled: complete, late data too. provisional: complete, late data may come. missing: not loaded. lost: not loaded, and the API has forgotten it';
COMMENT ON COLUMN reporting.day_coverage.reported IS 'Segments that the API reported at the latest load; null when never loaded';
COMMENT ON COLUMN reporting.day_coverage.loaded IS 'Segments of the latest load that are in the warehouse; null when never loaded';
COMMENT ON COLUMN reporting.day_coverage.rejected IS 'Rows of the latest load that could not be loaded; null when never loaded';
COMMENT ON COLUMN reporting.day_coverage.pulled_at IS 'When the pull of the latest load began; null when never loaded';
COMMENT ON COLUMN reporting.day_coverage.lost_after IS 'From when on the API may forget the missing day; null once loaded';
