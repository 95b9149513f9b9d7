-- Reports over years of segments in less than a second, and never a figure that the segments do not bear out.
--
-- Two rollups hold the sums by quarter of an hour and by day. A trigger marks the quarters in which a segment came, went
-- or changed, whoever did it. A day with a mark is read from the segments, every other day from the rollups; the refresh
-- (warehouse/rollups.py) rolls the marked days up again and takes the marks away.

CREATE TABLE aht.changed_quarters (
    account_id text NOT NULL,
    quarter_start timestamptz NOT NULL,
    changed_by bigint NOT NULL,
    CONSTRAINT changed_quarters_pkey PRIMARY KEY (account_id, quarter_start, changed_by)
);

COMMENT ON TABLE aht.changed_quarters IS 'Quarters of an hour whose segments changed since their day was last rolled up';
COMMENT ON COLUMN aht.changed_quarters.account_id IS 'LivePerson account';
COMMENT ON COLUMN aht.changed_quarters.quarter_start IS 'Begin of the quarter in which a changed segment closes, or closed before';
COMMENT ON COLUMN aht.changed_quarters.changed_by IS 'Transaction that changed it: whoever rolls up takes away only the marks that it saw';

CREATE TABLE aht.interval_rollup (
    account_id text NOT NULL,
    close_date date NOT NULL,
    interval_start timestamptz NOT NULL,
    skill_id bigint NOT NULL,
    segments bigint NOT NULL,
    closed_by_agent bigint NOT NULL,
    closed_by_consumer bigint NOT NULL,
    closed_by_system bigint NOT NULL,
    transfers bigint NOT NULL,
    back_to_queue bigint NOT NULL,
    zero_handle_segments bigint NOT NULL,
    total_handle_time_ms numeric NOT NULL,
    CONSTRAINT interval_rollup_pkey PRIMARY KEY (account_id, close_date, interval_start, skill_id)
);

COMMENT ON TABLE aht.interval_rollup IS 'Sums of agent_segments by skill and quarter of an hour; read reporting.skill_interval instead';
COMMENT ON COLUMN aht.interval_rollup.account_id IS 'LivePerson account';
COMMENT ON COLUMN aht.interval_rollup.close_date IS 'Day of the quarter, in the account''s time zone';
COMMENT ON COLUMN aht.interval_rollup.interval_start IS 'Begin of the quarter in which the segments closed';
COMMENT ON COLUMN aht.interval_rollup.skill_id IS 'LivePerson''s id of the skill; -1 for none';
COMMENT ON COLUMN aht.interval_rollup.segments IS 'Segments that closed';
COMMENT ON COLUMN aht.interval_rollup.closed_by_agent IS 'Of these, closed by the agent';
COMMENT ON COLUMN aht.interval_rollup.closed_by_consumer IS 'Of these, closed by the consumer';
COMMENT ON COLUMN aht.interval_rollup.closed_by_system IS 'Of these, closed by the system';
COMMENT ON COLUMN aht.interval_rollup.transfers IS 'Of these, transferred to an agent or a skill';
COMMENT ON COLUMN aht.interval_rollup.back_to_queue IS 'Of these, given back to the queue';
COMMENT ON COLUMN aht.interval_rollup.zero_handle_segments IS 'Of these, with a handle time of 0';
COMMENT ON COLUMN aht.interval_rollup.total_handle_time_ms IS 'Sum of their actual handle time, in milliseconds';

CREATE TABLE aht.daily_rollup (
    account_id text NOT NULL,
    grain text NOT NULL,
    close_date date NOT NULL,
    agent_id bigint NOT NULL,
    skill_id bigint NOT NULL,
    group_id bigint NOT NULL,
    segments bigint NOT NULL,
    closed_by_agent bigint NOT NULL,
    closed_by_consumer bigint NOT NULL,
    closed_by_system bigint NOT NULL,
    transfers bigint NOT NULL,
    back_to_queue bigint NOT NULL,
    zero_handle_segments bigint NOT NULL,
    total_handle_time_ms numeric NOT NULL,
    median_handle_time_ms double precision NOT NULL,
    p90_handle_time_ms double precision NOT NULL,
    CONSTRAINT daily_rollup_pkey PRIMARY KEY (account_id, grain, close_date, agent_id, skill_id, group_id)
);

COMMENT ON TABLE aht.daily_rollup IS 'Sums and quantiles of agent_segments by day and grain; read the views of reporting by day instead';
COMMENT ON COLUMN aht.daily_rollup.account_id IS 'LivePerson account';
COMMENT ON COLUMN aht.daily_rollup.grain IS 'What a row stands for beside its day: agent, skill, group or agent_skill';
COMMENT ON COLUMN aht.daily_rollup.close_date IS 'Day on which the segments closed, in the account''s time zone';
COMMENT ON COLUMN aht.daily_rollup.agent_id IS 'LivePerson''s id of the agent; -1 where the grain has none';
COMMENT ON COLUMN aht.daily_rollup.skill_id IS 'LivePerson''s id of the skill; -1 for none, and where the grain has none';
COMMENT ON COLUMN aht.daily_rollup.group_id IS 'LivePerson''s id of the agent group; -1 for none, and where the grain has none';
COMMENT ON COLUMN aht.daily_rollup.segments IS 'Segments that closed';
COMMENT ON COLUMN aht.daily_rollup.closed_by_agent IS 'Of these, closed by the agent';
COMMENT ON COLUMN aht.daily_rollup.closed_by_consumer IS 'Of these, closed by the consumer';
COMMENT ON COLUMN aht.daily_rollup.closed_by_system IS 'Of these, closed by the system';
COMMENT ON COLUMN aht.daily_rollup.transfers IS 'Of these, transferred to an agent or a skill';
COMMENT ON COLUMN aht.daily_rollup.back_to_queue IS 'Of these, given back to the queue';
COMMENT ON COLUMN aht.daily_rollup.zero_handle_segments IS 'Of these, with a handle time of 0';
COMMENT ON COLUMN aht.daily_rollup.total_handle_time_ms IS 'Sum of their actual handle time, in milliseconds';
COMMENT ON COLUMN aht.daily_rollup.median_handle_time_ms IS 'Median of their actual handle time, in milliseconds';
COMMENT ON COLUMN aht.daily_rollup.p90_handle_time_ms IS '90th percentile of their actual handle time, in milliseconds, interpolated';

-- ------------------------------------------------------------------------------------------------------- what changed

-- Both functions run with their owner's rights: whoever may change segments needs none on what follows from them.

CREATE FUNCTION aht.mark_changed_quarters() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO aht.changed_quarters
        SELECT DISTINCT account_id, interval_start, pg_current_xact_id()::text::bigint FROM aht.interval_rollup
        ON CONFLICT DO NOTHING;
        RETURN NULL;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO aht.changed_quarters
        SELECT DISTINCT account_id, date_bin('15 minutes', end_time, 'epoch'), pg_current_xact_id()::text::bigint
        FROM rows_after
        ON CONFLICT DO NOTHING;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO aht.changed_quarters
        SELECT DISTINCT account_id, date_bin('15 minutes', end_time, 'epoch'), pg_current_xact_id()::text::bigint
        FROM rows_before
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $$;

COMMENT ON FUNCTION aht.mark_changed_quarters IS 'Marks the quarters of an hour whose segments a statement changed';

CREATE TRIGGER mark_insert AFTER INSERT ON aht.agent_segments
    REFERENCING NEW TABLE AS rows_after
    FOR EACH STATEMENT EXECUTE FUNCTION aht.mark_changed_quarters();
CREATE TRIGGER mark_update AFTER UPDATE ON aht.agent_segments
    REFERENCING OLD TABLE AS rows_before NEW TABLE AS rows_after
    FOR EACH STATEMENT EXECUTE FUNCTION aht.mark_changed_quarters();
CREATE TRIGGER mark_delete AFTER DELETE ON aht.agent_segments
    REFERENCING OLD TABLE AS rows_before
    FOR EACH STATEMENT EXECUTE FUNCTION aht.mark_changed_quarters();
CREATE TRIGGER mark_truncate AFTER TRUNCATE ON aht.agent_segments
    FOR EACH STATEMENT EXECUTE FUNCTION aht.mark_changed_quarters();

-- What is there already.
INSERT INTO aht.changed_quarters
SELECT DISTINCT account_id, date_bin('15 minutes', end_time, 'epoch'), 0 FROM aht.agent_segments;

-- The days that changed and their segments are read by functions, which are planned apart and say how much to expect of
-- them. The planner cannot know: it has no statistics on how many days the marks are of, and of a day that is known only
-- as the query runs it expects half a percent of the table, a page for nearly every row. So it took reports for hundreds
-- of times as long as they are, and a server with JIT compiled them for longer than they ran.
--
-- Whoever reads a view calls its functions with rights of his own; what these read, they read with their owner's.

CREATE FUNCTION aht.find_changed_days()
RETURNS TABLE (account_id text, close_date date, day_start timestamptz, day_end timestamptz)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 3 -- as a night leaves
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    -- Where clocks are put back from one o'clock, a day has two midnights, and begins with the first. Postgres takes the
    -- second: the hour between them would be reported on the day before.
    SELECT
        account_id,
        close_date,
        CASE
            WHEN ((day_start - interval '1 hour') AT TIME ZONE timezone)::date = close_date
                THEN day_start - interval '1 hour'
            ELSE day_start
        END,
        CASE
            WHEN ((day_end - interval '1 hour') AT TIME ZONE timezone)::date > close_date
                THEN day_end - interval '1 hour'
            ELSE day_end
        END
    FROM (
        SELECT DISTINCT account_id, zone.timezone, (quarter.quarter_start AT TIME ZONE zone.timezone)::date AS close_date
        FROM aht.changed_quarters AS quarter
        JOIN reporting.account_timezone AS zone USING (account_id)
    ) AS changed
    CROSS JOIN LATERAL (
        SELECT
            close_date::timestamp AT TIME ZONE timezone AS day_start,
            (close_date + 1)::timestamp AT TIME ZONE timezone AS day_end
    ) AS midnight
$$;

COMMENT ON FUNCTION aht.find_changed_days IS 'Days whose segments changed since they were last rolled up; read aht.changed_days';
GRANT EXECUTE ON FUNCTION aht.find_changed_days TO PUBLIC;

CREATE VIEW aht.changed_days AS
SELECT account_id, close_date, day_start, day_end
FROM aht.find_changed_days();

COMMENT ON VIEW aht.changed_days IS 'Days whose segments changed since they were last rolled up';
COMMENT ON COLUMN aht.changed_days.account_id IS 'LivePerson account';
COMMENT ON COLUMN aht.changed_days.close_date IS 'Day, in the account''s time zone';
COMMENT ON COLUMN aht.changed_days.day_start IS 'Begin of the day';
COMMENT ON COLUMN aht.changed_days.day_end IS 'End of the day, itself not in it';

-- -------------------------------------------------------------------------- the one place where each figure is worked out

CREATE FUNCTION aht.measure_intervals(account text, since timestamptz, until timestamptz)
RETURNS TABLE (
    interval_start timestamptz,
    skill_id bigint,
    segments bigint,
    closed_by_agent bigint,
    closed_by_consumer bigint,
    closed_by_system bigint,
    transfers bigint,
    back_to_queue bigint,
    zero_handle_segments bigint,
    total_handle_time_ms numeric
)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1000 COST 2000000 -- of a day: as much as to read 5,000 pages
SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    SELECT
        date_bin('15 minutes', segment.end_time, 'epoch') AS interval_start,
        coalesce(segment.skill_id, -1) AS skill_id,
        count(*) AS segments,
        count(*) FILTER (WHERE segment.end_reason = 'closedByAgent') AS closed_by_agent,
        count(*) FILTER (WHERE segment.end_reason = 'closedByConsumer') AS closed_by_consumer,
        count(*) FILTER (WHERE segment.end_reason = 'closedBySystem') AS closed_by_system,
        count(*) FILTER (WHERE segment.end_reason IN ('agentTransfer', 'skillTransfer')) AS transfers,
        count(*) FILTER (WHERE segment.end_reason = 'backToQueue') AS back_to_queue,
        count(*) FILTER (WHERE segment.total_handle_time_ms = 0) AS zero_handle_segments,
        sum(segment.total_handle_time_ms) AS total_handle_time_ms
    FROM aht.agent_segments AS segment
    WHERE segment.account_id = account AND segment.end_time >= since AND segment.end_time < until
    GROUP BY 1, 2
$$;

COMMENT ON FUNCTION aht.measure_intervals IS 'Sums of an account''s segments of these hours by skill and quarter of an hour';
GRANT EXECUTE ON FUNCTION aht.measure_intervals TO PUBLIC;

CREATE VIEW aht.changed_interval_measures AS
SELECT day.account_id, day.close_date, measured.*
FROM aht.changed_days AS day
CROSS JOIN LATERAL aht.measure_intervals(day.account_id, day.day_start, day.day_end) AS measured;

COMMENT ON VIEW aht.changed_interval_measures IS 'interval_rollup of the days that changed, as it should be';

-- The segments, not what they add up to: a report that shows no quantiles does without them.
CREATE FUNCTION aht.segments_between(account text, since timestamptz, until timestamptz)
RETURNS TABLE (agent_id bigint, skill_id bigint, group_id bigint, end_reason text, total_handle_time_ms bigint)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10000 COST 2000000 -- of a day: as much as to read 5,000 pages
SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    SELECT segment.agent_id, segment.skill_id, segment.group_id, segment.end_reason, segment.total_handle_time_ms
    FROM aht.agent_segments AS segment
    WHERE segment.account_id = account AND segment.end_time >= since AND segment.end_time < until
$$;

COMMENT ON FUNCTION aht.segments_between IS 'An account''s segments that closed in these hours';
GRANT EXECUTE ON FUNCTION aht.segments_between TO PUBLIC;

CREATE VIEW aht.changed_day_measures AS
SELECT day.account_id, measured.grain, day.close_date, measured.agent_id, measured.skill_id, measured.group_id,
    measured.segments, measured.closed_by_agent, measured.closed_by_consumer, measured.closed_by_system,
    measured.transfers, measured.back_to_queue, measured.zero_handle_segments, measured.total_handle_time_ms,
    measured.quantiles[1] AS median_handle_time_ms, measured.quantiles[2] AS p90_handle_time_ms
FROM aht.changed_days AS day
CROSS JOIN LATERAL (
    SELECT
        CASE grouping(segment.agent_id, segment.skill_id, segment.group_id)
            WHEN 3 THEN 'agent' WHEN 5 THEN 'skill' WHEN 6 THEN 'group' WHEN 1 THEN 'agent_skill'
        END AS grain,
        coalesce(segment.agent_id, -1) AS agent_id,
        coalesce(segment.skill_id, -1) AS skill_id,
        coalesce(segment.group_id, -1) AS group_id,
        count(*) AS segments,
        count(*) FILTER (WHERE segment.end_reason = 'closedByAgent') AS closed_by_agent,
        count(*) FILTER (WHERE segment.end_reason = 'closedByConsumer') AS closed_by_consumer,
        count(*) FILTER (WHERE segment.end_reason = 'closedBySystem') AS closed_by_system,
        count(*) FILTER (WHERE segment.end_reason IN ('agentTransfer', 'skillTransfer')) AS transfers,
        count(*) FILTER (WHERE segment.end_reason = 'backToQueue') AS back_to_queue,
        count(*) FILTER (WHERE segment.total_handle_time_ms = 0) AS zero_handle_segments,
        sum(segment.total_handle_time_ms) AS total_handle_time_ms,
        percentile_cont(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY segment.total_handle_time_ms) AS quantiles
    FROM aht.segments_between(day.account_id, day.day_start, day.day_end) AS segment
    GROUP BY GROUPING SETS (
        (segment.agent_id), (segment.skill_id), (segment.group_id), (segment.agent_id, segment.skill_id)
    )
) AS measured;

COMMENT ON VIEW aht.changed_day_measures IS 'daily_rollup of the days that changed, as it should be';

CREATE VIEW aht.interval_measures AS
SELECT rollup.*
FROM aht.interval_rollup AS rollup
WHERE NOT EXISTS (
    SELECT FROM aht.changed_days AS day
    WHERE day.account_id = rollup.account_id AND day.close_date = rollup.close_date
)
UNION ALL
SELECT * FROM aht.changed_interval_measures;

COMMENT ON VIEW aht.interval_measures IS 'interval_rollup, and of the days that changed since the segments themselves';

CREATE VIEW aht.day_measures AS
SELECT rollup.*
FROM aht.daily_rollup AS rollup
WHERE NOT EXISTS (
    SELECT FROM aht.changed_days AS day
    WHERE day.account_id = rollup.account_id AND day.close_date = rollup.close_date
)
UNION ALL
SELECT * FROM aht.changed_day_measures;

COMMENT ON VIEW aht.day_measures IS 'daily_rollup, and of the days that changed since the segments themselves';

-- Their columns are those of the rollups.
DO $$
DECLARE
    copied record;
BEGIN
    FOR copied IN
        SELECT shown.attrelid::regclass AS view, shown.attname AS name, col_description(kept.attrelid, kept.attnum) AS text
        FROM (
            VALUES
                ('aht.interval_rollup'::regclass, 'aht.interval_measures'::regclass),
                ('aht.interval_rollup', 'aht.changed_interval_measures'),
                ('aht.daily_rollup', 'aht.day_measures'),
                ('aht.daily_rollup', 'aht.changed_day_measures')
        ) AS pair (rollup, view)
        JOIN pg_attribute AS kept ON kept.attrelid = rollup AND kept.attnum > 0
        JOIN pg_attribute AS shown ON shown.attrelid = pair.view AND shown.attname = kept.attname
    LOOP
        EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', copied.view, copied.name, copied.text);
    END LOOP;
END $$;

CREATE FUNCTION aht.roll_up_day(account text, day date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    changed record;
    seen bigint[];
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('aht.roll_up_day ' || account || ' ' || day, 0));
    SELECT * INTO changed FROM aht.changed_days WHERE account_id = account AND close_date = day;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- What commits from here on is perhaps read and surely marked: its mark is not among these, and stays.
    seen := ARRAY(
        SELECT DISTINCT changed_by FROM aht.changed_quarters
        WHERE account_id = account AND quarter_start >= changed.day_start AND quarter_start < changed.day_end
    );
    DELETE FROM aht.interval_rollup WHERE account_id = account AND close_date = day;
    DELETE FROM aht.daily_rollup WHERE account_id = account AND close_date = day;
    INSERT INTO aht.interval_rollup
        SELECT * FROM aht.changed_interval_measures WHERE account_id = account AND close_date = day;
    INSERT INTO aht.daily_rollup
        SELECT * FROM aht.changed_day_measures WHERE account_id = account AND close_date = day;
    DELETE FROM aht.changed_quarters
    WHERE account_id = account AND quarter_start >= changed.day_start AND quarter_start < changed.day_end
        AND changed_by = ANY (seen);
    RETURN true;
END $$;

COMMENT ON FUNCTION aht.roll_up_day IS 'Roll a day up again if its segments changed since it was; whether they had';

-- --------------------------------------------------------------------------------------------------------- what is read

CREATE VIEW reporting.agent_segments AS
SELECT
    segment.account_id,
    (segment.end_time AT TIME ZONE zone.timezone)::date AS close_date,
    segment.segment_id,
    segment.conversation_id,
    segment.agent_id,
    segment.employee_id,
    segment.skill_id,
    segment.group_id,
    segment.start_time,
    segment.end_time,
    segment.start_time AT TIME ZONE zone.timezone AS start_time_local,
    segment.end_time AT TIME ZONE zone.timezone AS end_time_local,
    round(segment.total_handle_time_ms / 1000.0, 3) AS handle_time_seconds,
    round(extract(epoch FROM segment.end_time - segment.start_time)::numeric, 3) AS segment_duration_seconds,
    segment.end_reason,
    segment.quality_flags,
    coalesce(loaded.settled, false) AS is_settled
FROM aht.agent_segments AS segment
JOIN reporting.account_timezone AS zone USING (account_id)
LEFT JOIN (SELECT account_id, day, bool_or(settled) AS settled FROM aht.loads GROUP BY account_id, day) AS loaded
    ON loaded.account_id = segment.account_id AND loaded.day = (segment.end_time AT TIME ZONE zone.timezone)::date;

COMMENT ON VIEW reporting.agent_segments IS 'Segments, one agent''s part of one conversation each. A segment is filed, whole, under the time at which it closed, in the account''s time zone; filter by end_time, which is indexed';
COMMENT ON COLUMN reporting.agent_segments.account_id IS 'LivePerson account';
COMMENT ON COLUMN reporting.agent_segments.close_date IS 'Day on which the segment closed, in the account''s time zone';
COMMENT ON COLUMN reporting.agent_segments.segment_id IS 'LivePerson''s key of the segment, opaque and case-sensitive';
COMMENT ON COLUMN reporting.agent_segments.conversation_id IS 'Conversation that the segment is a part of';
COMMENT ON COLUMN reporting.agent_segments.agent_id IS 'LivePerson''s id of the agent';
COMMENT ON COLUMN reporting.agent_segments.employee_id IS 'The brand''s own id of the agent, leading zeros kept; null for none';
COMMENT ON COLUMN reporting.agent_segments.skill_id IS 'LivePerson''s id of the skill; null for none';
COMMENT ON COLUMN reporting.agent_segments.group_id IS 'LivePerson''s id of the agent group; null for none';
COMMENT ON COLUMN reporting.agent_segments.start_time IS 'When the conversation was assigned to the agent';
COMMENT ON COLUMN reporting.agent_segments.end_time IS 'When the segment closed';
COMMENT ON COLUMN reporting.agent_segments.start_time_local IS 'start_time on the clocks of the account''s time zone';
COMMENT ON COLUMN reporting.agent_segments.end_time_local IS 'end_time on the clocks of the account''s time zone';
COMMENT ON COLUMN reporting.agent_segments.handle_time_seconds IS 'Actual handle time in seconds: how long the agent really worked on the segment; 0 is a real value';
COMMENT ON COLUMN reporting.agent_segments.segment_duration_seconds IS 'Seconds from start_time to end_time, in most of which the agent may have worked on others';
COMMENT ON COLUMN reporting.agent_segments.end_reason IS 'Why the segment ended, as the API says it';
COMMENT ON COLUMN reporting.agent_segments.quality_flags IS 'What is doubtful about the row; empty when nothing is';
COMMENT ON COLUMN reporting.agent_segments.is_settled IS 'Whether the day of the close is settled: no late data can change it any more';

CREATE VIEW reporting.skill_interval AS
SELECT
    measured.account_id,
    measured.interval_start,
    measured.interval_start AT TIME ZONE zone.timezone AS interval_start_local,
    (extract(
        epoch FROM (measured.interval_start AT TIME ZONE zone.timezone) - (measured.interval_start AT TIME ZONE 'UTC')
    ) / 60)::int AS utc_offset_minutes,
    nullif(measured.skill_id, -1) AS skill_id,
    measured.segments,
    measured.closed_by_agent + measured.closed_by_consumer + measured.closed_by_system + measured.transfers AS concluded_segments,
    measured.closed_by_agent,
    measured.closed_by_consumer,
    measured.closed_by_system,
    measured.transfers,
    measured.back_to_queue,
    measured.zero_handle_segments,
    round(measured.total_handle_time_ms / 1000, 3) AS total_handle_time_seconds,
    round(measured.total_handle_time_ms / 1000 / measured.segments, 3) AS avg_handle_time_seconds,
    coalesce(loaded.settled, false) AS is_settled,
    measured.close_date
FROM aht.interval_measures AS measured
JOIN reporting.account_timezone AS zone USING (account_id)
LEFT JOIN (SELECT account_id, day, bool_or(settled) AS settled FROM aht.loads GROUP BY account_id, day) AS loaded
    ON loaded.account_id = measured.account_id AND loaded.day = measured.close_date;

COMMENT ON VIEW reporting.skill_interval IS 'Actual handle time by skill and quarter of an hour, where a segment closed in it. A segment is filed, whole, under the time at which it closed; half an hour is two quarters added. Average over more with sum(total_handle_time_seconds) / sum(segments)';
COMMENT ON COLUMN reporting.skill_interval.account_id IS 'LivePerson account';
COMMENT ON COLUMN reporting.skill_interval.interval_start IS 'Begin of the quarter';
COMMENT ON COLUMN reporting.skill_interval.interval_start_local IS 'Begin of the quarter on the clocks of the account''s time zone';
COMMENT ON COLUMN reporting.skill_interval.utc_offset_minutes IS 'How far those clocks are ahead of UTC, in minutes: tells the two hours apart that a change of clocks repeats';
COMMENT ON COLUMN reporting.skill_interval.skill_id IS 'LivePerson''s id of the skill; null: the segments without one';
COMMENT ON COLUMN reporting.skill_interval.segments IS 'Segments that closed';
COMMENT ON COLUMN reporting.skill_interval.concluded_segments IS 'Segments that were closed (by agent, consumer or system) or transferred';
COMMENT ON COLUMN reporting.skill_interval.closed_by_agent IS 'Segments closed by the agent';
COMMENT ON COLUMN reporting.skill_interval.closed_by_consumer IS 'Segments closed by the consumer';
COMMENT ON COLUMN reporting.skill_interval.closed_by_system IS 'Segments closed by the system';
COMMENT ON COLUMN reporting.skill_interval.transfers IS 'Segments transferred to an agent or a skill';
COMMENT ON COLUMN reporting.skill_interval.back_to_queue IS 'Segments given back to the queue';
COMMENT ON COLUMN reporting.skill_interval.zero_handle_segments IS 'Segments with a handle time of 0; they count in every sum and average';
COMMENT ON COLUMN reporting.skill_interval.total_handle_time_seconds IS 'Sum of their actual handle time, in seconds';
COMMENT ON COLUMN reporting.skill_interval.avg_handle_time_seconds IS 'Actual handle time of one segment: total_handle_time_seconds over segments, in seconds; never average these averages';
COMMENT ON COLUMN reporting.skill_interval.is_settled IS 'Whether the day is settled: no late data can change it any more';
COMMENT ON COLUMN reporting.skill_interval.close_date IS 'Day of the quarter, in the account''s time zone';

CREATE OR REPLACE VIEW reporting.agent_day AS
SELECT
    measured.account_id,
    measured.close_date,
    measured.agent_id,
    measured.segments,
    round(measured.total_handle_time_ms / 1000, 3) AS total_handle_time_seconds,
    round(measured.total_handle_time_ms / 1000 / measured.segments, 3) AS avg_handle_time_seconds,
    measured.closed_by_agent + measured.closed_by_consumer + measured.closed_by_system + measured.transfers AS concluded_segments,
    measured.closed_by_agent,
    measured.closed_by_consumer,
    measured.closed_by_system,
    measured.transfers,
    measured.back_to_queue,
    measured.zero_handle_segments,
    round((measured.closed_by_agent + measured.closed_by_consumer + measured.closed_by_system)::numeric / nullif(measured.closed_by_agent + measured.closed_by_consumer + measured.closed_by_system + measured.transfers, 0), 4) AS close_rate,
    round(measured.transfers::numeric / nullif(measured.closed_by_agent + measured.closed_by_consumer + measured.closed_by_system + measured.transfers, 0), 4) AS transfer_rate,
    round(measured.median_handle_time_ms::numeric / 1000, 3) AS median_handle_time_seconds,
    round(measured.p90_handle_time_ms::numeric / 1000, 3) AS p90_handle_time_seconds,
    measured.segments AS quantiles_n,
    coalesce(loaded.settled, false) AS is_settled
FROM aht.day_measures AS measured
LEFT JOIN (SELECT account_id, day, bool_or(settled) AS settled FROM aht.loads GROUP BY account_id, day) AS loaded
    ON loaded.account_id = measured.account_id AND loaded.day = measured.close_date
WHERE measured.grain = 'agent';

COMMENT ON VIEW reporting.agent_day IS 'Actual handle time by agent and day. A segment is filed, whole, under the day on which it closed, in the account''s time zone. Average over days with sum(total_handle_time_seconds) / sum(segments)';
COMMENT ON COLUMN reporting.agent_day.account_id IS 'LivePerson account';
COMMENT ON COLUMN reporting.agent_day.close_date IS 'Day on which the segments closed, in the account''s time zone';
COMMENT ON COLUMN reporting.agent_day.agent_id IS 'LivePerson''s id of the agent';
COMMENT ON COLUMN reporting.agent_day.segments IS 'Segments that closed';
COMMENT ON COLUMN reporting.agent_day.total_handle_time_seconds IS 'Sum of their actual handle time, in seconds';
COMMENT ON COLUMN reporting.agent_day.avg_handle_time_seconds IS 'Actual handle time of one segment: total_handle_time_seconds over segments, in seconds; never average these averages';
COMMENT ON COLUMN reporting.agent_day.concluded_segments IS 'Segments that were closed (by agent, consumer or system) or transferred';
COMMENT ON COLUMN reporting.agent_day.closed_by_agent IS 'Segments closed by the agent';
COMMENT ON COLUMN reporting.agent_day.closed_by_consumer IS 'Segments closed by the consumer';
COMMENT ON COLUMN reporting.agent_day.closed_by_system IS 'Segments closed by the system';
COMMENT ON COLUMN reporting.agent_day.transfers IS 'Segments transferred to an agent or a skill';
COMMENT ON COLUMN reporting.agent_day.back_to_queue IS 'Segments given back to the queue';
COMMENT ON COLUMN reporting.agent_day.zero_handle_segments IS 'Segments with a handle time of 0; they count in every sum and average';
COMMENT ON COLUMN reporting.agent_day.close_rate IS 'Of the concluded segments, the part that was closed, 0 to 1; null where none was concluded';
COMMENT ON COLUMN reporting.agent_day.transfer_rate IS 'Of the concluded segments, the part that was transferred, 0 to 1; null where none was concluded';
COMMENT ON COLUMN reporting.agent_day.median_handle_time_seconds IS 'Median of the actual handle time of a segment, in seconds; medians cannot be added or averaged';
COMMENT ON COLUMN reporting.agent_day.p90_handle_time_seconds IS 'Nine of ten segments took at most this actual handle time, in seconds, interpolated; it cannot be added or averaged';
COMMENT ON COLUMN reporting.agent_day.quantiles_n IS 'How many segments the median and the 90th percentile are of';
COMMENT ON COLUMN reporting.agent_day.is_settled IS 'Whether the day is settled: no late data can change it any more';

CREATE OR REPLACE VIEW reporting.skill_day AS
SELECT
    measured.account_id,
    measured.close_date,
    nullif(measured.skill_id, -1) AS skill_id,
    measured.segments,
    round(measured.total_handle_time_ms / 1000, 3) AS total_handle_time_seconds,
    round(measured.total_handle_time_ms / 1000 / measured.segments, 3) AS avg_handle_time_seconds,
    measured.closed_by_agent + measured.closed_by_consumer + measured.closed_by_system + measured.transfers AS concluded_segments,
    measured.closed_by_agent,
    measured.closed_by_consumer,
    measured.closed_by_system,
    measured.transfers,
    measured.back_to_queue,
    measured.zero_handle_segments,
    round((measured.closed_by_agent + measured.closed_by_consumer + measured.closed_by_system)::numeric / nullif(measured.closed_by_agent + measured.closed_by_consumer + measured.closed_by_system + measured.transfers, 0), 4) AS close_rate,
    round(measured.transfers::numeric / nullif(measured.closed_by_agent + measured.closed_by_consumer + measured.closed_by_system + measured.transfers, 0), 4) AS transfer_rate,
    round(measured.median_handle_time_ms::numeric / 1000, 3) AS median_handle_time_seconds,
    round(measured.p90_handle_time_ms::numeric / 1000, 3) AS p90_handle_time_seconds,
    measured.segments AS quantiles_n,
    coalesce(loaded.settled, false) AS is_settled
FROM aht.day_measures AS measured
LEFT JOIN (SELECT account_id, day, bool_or(settled) AS settled FROM aht.loads GROUP BY account_id, day) AS loaded
    ON loaded.account_id = measured.account_id AND loaded.day = measured.close_date
WHERE measured.grain = 'skill';

COMMENT ON VIEW reporting.skill_day IS 'Actual handle time by skill and day. A segment is filed, whole, under the day on which it closed, in the account''s time zone. Average over days with sum(total_handle_time_seconds) / sum(segments)';
COMMENT ON COLUMN reporting.skill_day.account_id IS 'LivePerson account';
COMMENT ON COLUMN reporting.skill_day.close_date IS 'Day on which the segments closed, in the account''s time zone';
COMMENT ON COLUMN reporting.skill_day.skill_id IS 'LivePerson''s id of the skill; null: the segments without one';
COMMENT ON COLUMN reporting.skill_day.segments IS 'Segments that closed';
COMMENT ON COLUMN reporting.skill_day.total_handle_time_seconds IS 'Sum of their actual handle time, in seconds';
COMMENT ON COLUMN reporting.skill_day.avg_handle_time_seconds IS 'Actual handle time of one segment: total_handle_time_seconds over segments, in seconds; never average these averages';
COMMENT ON COLUMN reporting.skill_day.concluded_segments IS 'Segments that were closed (by agent, consumer or system) or transferred';
COMMENT ON COLUMN reporting.skill_day.closed_by_agent IS 'Segments closed by the agent';
COMMENT ON COLUMN reporting.skill_day.closed_by_consumer IS 'Segments closed by the consumer';
COMMENT ON COLUMN reporting.skill_day.closed_by_system IS 'Segments closed by the system';
COMMENT ON COLUMN reporting.skill_day.transfers IS 'Segments transferred to an agent or a skill';
COMMENT ON COLUMN reporting.skill_day.back_to_queue IS 'Segments given back to the queue';
COMMENT ON COLUMN reporting.skill_day.zero_handle_segments IS 'Segments with a handle time of 0; they count in every sum and average';
COMMENT ON COLUMN reporting.skill_day.close_rate IS 'Of the concluded segments, the part that was closed, 0 to 1; null where none was concluded';
COMMENT ON COLUMN reporting.skill_day.transfer_rate IS 'Of the concluded segments, the part that was transferred, 0 to 1; null where none was concluded';
COMMENT ON COLUMN reporting.skill_day.median_handle_time_seconds IS 'Median of the actual handle time of a segment, in seconds; medians cannot be added or averaged';
COMMENT ON COLUMN reporting.skill_day.p90_handle_time_seconds IS 'Nine of ten segments took at most this actual handle time, in seconds, interpolated; it cannot be added or averaged';
COMMENT ON COLUMN reporting.skill_day.quantiles_n IS 'How many segments the median and the 90th percentile are of';
COMMENT ON COLUMN reporting.skill_day.is_settled IS 'Whether the day is settled: no late data can change it any more';

CREATE OR REPLACE VIEW reporting.group_day AS
SELECT
    measured.account_id,
    measured.close_date,
    nullif(measured.group_id, -1) AS group_id,
    measured.segments,
    round(measured.total_handle_time_ms / 1000, 3) AS total_handle_time_seconds,
    round(measured.total_handle_time_ms / 1000 / measured.segments, 3) AS avg_handle_time_seconds,
    measured.closed_by_agent + measured.closed_by_consumer + measured.closed_by_system + measured.transfers AS concluded_segments,
    measured.closed_by_agent,
    measured.closed_by_consumer,
    measured.closed_by_system,
    measured.transfers,
    measured.back_to_queue,
    measured.zero_handle_segments,
    round((measured.closed_by_agent + measured.closed_by_consumer + measured.closed_by_system)::numeric / nullif(measured.closed_by_agent + measured.closed_by_consumer + measured.closed_by_system + measured.transfers, 0), 4) AS close_rate,
    round(measured.transfers::numeric / nullif(measured.closed_by_agent + measured.closed_by_consumer + measured.closed_by_system + measured.transfers, 0), 4) AS transfer_rate,
    round(measured.median_handle_time_ms::numeric / 1000, 3) AS median_handle_time_seconds,
    round(measured.p90_handle_time_ms::numeric / 1000, 3) AS p90_handle_time_seconds,
    measured.segments AS quantiles_n,
    coalesce(loaded.settled, false) AS is_settled
FROM aht.day_measures AS measured
LEFT JOIN (SELECT account_id, day, bool_or(settled) AS settled FROM aht.loads GROUP BY account_id, day) AS loaded
    ON loaded.account_id = measured.account_id AND loaded.day = measured.close_date
WHERE measured.grain = 'group';

COMMENT ON VIEW reporting.group_day IS 'Actual handle time by agent group and day. A segment is filed, whole, under the day on which it closed, in the account''s time zone. Average over days with sum(total_handle_time_seconds) / sum(segments)';
COMMENT ON COLUMN reporting.group_day.account_id IS 'LivePerson account';
COMMENT ON COLUMN reporting.group_day.close_date IS 'Day on which the segments closed, in the account''s time zone';
COMMENT ON COLUMN reporting.group_day.group_id IS 'LivePerson''s id of the agent group; null: the segments without one';
COMMENT ON COLUMN reporting.group_day.segments IS 'Segments that closed';
COMMENT ON COLUMN reporting.group_day.total_handle_time_seconds IS 'Sum of their actual handle time, in seconds';
COMMENT ON COLUMN reporting.group_day.avg_handle_time_seconds IS 'Actual handle time of one segment: total_handle_time_seconds over segments, in seconds; never average these averages';
COMMENT ON COLUMN reporting.group_day.concluded_segments IS 'Segments that were closed (by agent, consumer or system) or transferred';
COMMENT ON COLUMN reporting.group_day.closed_by_agent IS 'Segments closed by the agent';
COMMENT ON COLUMN reporting.group_day.closed_by_consumer IS 'Segments closed by the consumer';
COMMENT ON COLUMN reporting.group_day.closed_by_system IS 'Segments closed by the system';
COMMENT ON COLUMN reporting.group_day.transfers IS 'Segments transferred to an agent or a skill';
COMMENT ON COLUMN reporting.group_day.back_to_queue IS 'Segments given back to the queue';
COMMENT ON COLUMN reporting.group_day.zero_handle_segments IS 'Segments with a handle time of 0; they count in every sum and average';
COMMENT ON COLUMN reporting.group_day.close_rate IS 'Of the concluded segments, the part that was closed, 0 to 1; null where none was concluded';
COMMENT ON COLUMN reporting.group_day.transfer_rate IS 'Of the concluded segments, the part that was transferred, 0 to 1; null where none was concluded';
COMMENT ON COLUMN reporting.group_day.median_handle_time_seconds IS 'Median of the actual handle time of a segment, in seconds; medians cannot be added or averaged';
COMMENT ON COLUMN reporting.group_day.p90_handle_time_seconds IS 'Nine of ten segments took at most this actual handle time, in seconds, interpolated; it cannot be added or averaged';
COMMENT ON COLUMN reporting.group_day.quantiles_n IS 'How many segments the median and the 90th percentile are of';
COMMENT ON COLUMN reporting.group_day.is_settled IS 'Whether the day is settled: no late data can change it any more';

CREATE VIEW reporting.agent_skill_day AS
SELECT
    measured.account_id,
    measured.close_date,
    measured.agent_id,
    nullif(measured.skill_id, -1) AS skill_id,
    measured.segments,
    round(measured.total_handle_time_ms / 1000, 3) AS total_handle_time_seconds,
    round(measured.total_handle_time_ms / 1000 / measured.segments, 3) AS avg_handle_time_seconds,
    measured.closed_by_agent + measured.closed_by_consumer + measured.closed_by_system + measured.transfers AS concluded_segments,
    measured.closed_by_agent,
    measured.closed_by_consumer,
    measured.closed_by_system,
    measured.transfers,
    measured.back_to_queue,
    measured.zero_handle_segments,
    coalesce(loaded.settled, false) AS is_settled
FROM aht.day_measures AS measured
LEFT JOIN (SELECT account_id, day, bool_or(settled) AS settled FROM aht.loads GROUP BY account_id, day) AS loaded
    ON loaded.account_id = measured.account_id AND loaded.day = measured.close_date
WHERE measured.grain = 'agent_skill';

COMMENT ON VIEW reporting.agent_skill_day IS 'Actual handle time by agent, skill and day. A segment is filed, whole, under the day on which it closed, in the account''s time zone. Average with sum(total_handle_time_seconds) / sum(segments)';
COMMENT ON COLUMN reporting.agent_skill_day.account_id IS 'LivePerson account';
COMMENT ON COLUMN reporting.agent_skill_day.close_date IS 'Day on which the segments closed, in the account''s time zone';
COMMENT ON COLUMN reporting.agent_skill_day.agent_id IS 'LivePerson''s id of the agent';
COMMENT ON COLUMN reporting.agent_skill_day.skill_id IS 'LivePerson''s id of the skill; null: the segments without one';
COMMENT ON COLUMN reporting.agent_skill_day.segments IS 'Segments that closed';
COMMENT ON COLUMN reporting.agent_skill_day.total_handle_time_seconds IS 'Sum of their actual handle time, in seconds';
COMMENT ON COLUMN reporting.agent_skill_day.avg_handle_time_seconds IS 'Actual handle time of one segment: total_handle_time_seconds over segments, in seconds; never average these averages';
COMMENT ON COLUMN reporting.agent_skill_day.concluded_segments IS 'Segments that were closed (by agent, consumer or system) or transferred';
COMMENT ON COLUMN reporting.agent_skill_day.closed_by_agent IS 'Segments closed by the agent';
COMMENT ON COLUMN reporting.agent_skill_day.closed_by_consumer IS 'Segments closed by the consumer';
COMMENT ON COLUMN reporting.agent_skill_day.closed_by_system IS 'Segments closed by the system';
COMMENT ON COLUMN reporting.agent_skill_day.transfers IS 'Segments transferred to an agent or a skill';
COMMENT ON COLUMN reporting.agent_skill_day.back_to_queue IS 'Segments given back to the queue';
COMMENT ON COLUMN reporting.agent_skill_day.zero_handle_segments IS 'Segments with a handle time of 0; they count in every sum and average';
COMMENT ON COLUMN reporting.agent_skill_day.is_settled IS 'Whether the day is settled: no late data can change it any more';

CREATE VIEW reporting.conversation_metrics AS
SELECT
    account_id,
    conversation.conversation_id,
    conversation.first_start_time,
    conversation.last_end_time,
    (conversation.last_end_time AT TIME ZONE zone.timezone)::date AS close_date,
    conversation.segments,
    conversation.agents,
    conversation.skills,
    conversation.transfers,
    round(conversation.total_handle_time_ms / 1000, 3) AS total_handle_time_seconds,
    conversation.last_end_reason,
    conversation.last_end_reason IS NULL
        OR conversation.last_end_reason NOT IN ('closedByAgent', 'closedByConsumer', 'closedBySystem')
        OR EXISTS (
            SELECT
            FROM generate_series(
                (conversation.first_start_time AT TIME ZONE zone.timezone)::date,
                (conversation.last_end_time AT TIME ZONE zone.timezone)::date,
                interval '1 day'
            ) AS crossed (day)
            WHERE NOT EXISTS (
                SELECT FROM aht.loads AS load
                WHERE load.account_id = zone.account_id AND load.day = crossed.day::date AND load.settled
            )
        ) AS may_be_incomplete
FROM (
    SELECT
        account_id,
        conversation_id,
        min(start_time) AS first_start_time,
        max(end_time) AS last_end_time,
        count(*) AS segments,
        count(DISTINCT agent_id) AS agents,
        count(DISTINCT skill_id) AS skills,
        count(*) FILTER (WHERE end_reason IN ('agentTransfer', 'skillTransfer')) AS transfers,
        sum(total_handle_time_ms) AS total_handle_time_ms,
        (array_agg(end_reason ORDER BY end_time DESC, start_time DESC, segment_id DESC))[1] AS last_end_reason
    FROM aht.agent_segments
    GROUP BY account_id, conversation_id
) AS conversation
JOIN reporting.account_timezone AS zone USING (account_id);

COMMENT ON VIEW reporting.conversation_metrics IS 'Conversations, of the segments that are loaded. A conversation is filed under the time at which its last segment closed, in the account''s time zone. It reads every segment: over a year it takes minutes';
COMMENT ON COLUMN reporting.conversation_metrics.account_id IS 'LivePerson account';
COMMENT ON COLUMN reporting.conversation_metrics.conversation_id IS 'Conversation';
COMMENT ON COLUMN reporting.conversation_metrics.first_start_time IS 'When the conversation was first assigned to an agent';
COMMENT ON COLUMN reporting.conversation_metrics.last_end_time IS 'When its last segment closed';
COMMENT ON COLUMN reporting.conversation_metrics.close_date IS 'Day of last_end_time, in the account''s time zone';
COMMENT ON COLUMN reporting.conversation_metrics.segments IS 'Segments that closed';
COMMENT ON COLUMN reporting.conversation_metrics.agents IS 'Agents who had a part in it';
COMMENT ON COLUMN reporting.conversation_metrics.skills IS 'Skills that had a part in it; segments without a skill do not count';
COMMENT ON COLUMN reporting.conversation_metrics.transfers IS 'Segments that were transferred to an agent or a skill';
COMMENT ON COLUMN reporting.conversation_metrics.total_handle_time_seconds IS 'Sum of their actual handle time, in seconds';
COMMENT ON COLUMN reporting.conversation_metrics.last_end_reason IS 'Why its last segment ended, as the API says it';
COMMENT ON COLUMN reporting.conversation_metrics.may_be_incomplete IS 'Whether a part of it may lie outside what is loaded: it was not closed at last, or a day from its begin to its end is not settled';

CREATE VIEW reporting.skill_transfers AS
SELECT
    account_id,
    (transfer.end_time AT TIME ZONE zone.timezone)::date AS close_date,
    transfer.skill_id AS from_skill_id,
    transfer.next_skill_id AS to_skill_id,
    transfer.next_segment_id IS NOT NULL AS to_is_known,
    count(*) AS transfers
FROM (
    SELECT
        account_id,
        end_time,
        end_reason,
        skill_id,
        lead(skill_id) OVER in_order AS next_skill_id,
        lead(segment_id) OVER in_order AS next_segment_id
    FROM aht.agent_segments
    WINDOW in_order AS (PARTITION BY account_id, conversation_id ORDER BY start_time, end_time, segment_id)
) AS transfer
JOIN reporting.account_timezone AS zone USING (account_id)
WHERE transfer.end_reason = 'skillTransfer'
GROUP BY account_id, close_date, from_skill_id, to_skill_id, to_is_known;

COMMENT ON VIEW reporting.skill_transfers IS 'Transfers from skill to skill by day: segments that ended with skillTransfer, and the skill of the conversation''s next segment. Filed under the day on which the transferred segment closed, in the account''s time zone. It reads every segment: over a year it takes minutes';
COMMENT ON COLUMN reporting.skill_transfers.account_id IS 'LivePerson account';
COMMENT ON COLUMN reporting.skill_transfers.close_date IS 'Day on which the transferred segment closed, in the account''s time zone';
COMMENT ON COLUMN reporting.skill_transfers.from_skill_id IS 'LivePerson''s id of the skill that transferred; null for none';
COMMENT ON COLUMN reporting.skill_transfers.to_skill_id IS 'LivePerson''s id of the skill of the next segment; null: not seen yet, or without a skill';
COMMENT ON COLUMN reporting.skill_transfers.to_is_known IS 'Whether the next segment is loaded';
COMMENT ON COLUMN reporting.skill_transfers.transfers IS 'Transfers';
