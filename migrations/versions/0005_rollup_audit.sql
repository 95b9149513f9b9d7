-- The rollups are checked against the segments. The trigger that marks what changed can be passed by: it was switched
-- off, or the rows came by logical replication. A day whose rollups differ is marked here: from then on it is read from
-- its segments, as every marked day is, and the next refresh rolls it up.

CREATE FUNCTION aht.mark_differing_days(since date) RETURNS TABLE (account_id text, close_date date)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    WITH stored AS (
        SELECT
            segment.account_id,
            (segment.end_time AT TIME ZONE zone.timezone)::date AS close_date,
            count(*) AS segments,
            count(*) FILTER (WHERE segment.end_reason = 'closedByAgent') AS closed_by_agent,
            count(*) FILTER (WHERE segment.end_reason = 'closedByConsumer') AS closed_by_consumer,
            count(*) FILTER (WHERE segment.end_reason = 'closedBySystem') AS closed_by_system,
            count(*) FILTER (WHERE segment.end_reason IN ('agentTransfer', 'skillTransfer')) AS transfers,
            count(*) FILTER (WHERE segment.end_reason = 'backToQueue') AS back_to_queue,
            count(*) FILTER (WHERE segment.total_handle_time_ms = 0) AS zero_handle_segments,
            sum(segment.total_handle_time_ms) AS total_handle_time_ms
        FROM aht.agent_segments AS segment
        JOIN reporting.account_timezone AS zone USING (account_id)
        WHERE segment.end_time >= (since - 1)::timestamp AT TIME ZONE 'UTC' -- wide of every zone; for the index
        GROUP BY 1, 2
    ),
    rolled_up AS (
        SELECT
            account_id, close_date, 'interval' AS grain, segments, closed_by_agent, closed_by_consumer, closed_by_system,
            transfers, back_to_queue, zero_handle_segments, total_handle_time_ms
        FROM aht.interval_rollup
        WHERE close_date >= since
        UNION ALL
        SELECT
            account_id, close_date, grain, segments, closed_by_agent, closed_by_consumer, closed_by_system,
            transfers, back_to_queue, zero_handle_segments, total_handle_time_ms
        FROM aht.daily_rollup
        WHERE close_date >= since
    ),
    should_be AS (
        SELECT
            stored.account_id, stored.close_date, grain, segments, closed_by_agent, closed_by_consumer, closed_by_system,
            transfers, back_to_queue, zero_handle_segments, total_handle_time_ms
        FROM stored
        CROSS JOIN (VALUES ('interval'), ('agent'), ('skill'), ('group'), ('agent_skill')) AS grains (grain)
        WHERE stored.close_date >= since
    ),
    summed AS (
        SELECT
            account_id, close_date, grain, sum(segments), sum(closed_by_agent), sum(closed_by_consumer),
            sum(closed_by_system), sum(transfers), sum(back_to_queue), sum(zero_handle_segments),
            sum(total_handle_time_ms)
        FROM rolled_up
        GROUP BY 1, 2, 3
    ),
    differing AS (
        SELECT account_id, close_date
        FROM ((TABLE should_be EXCEPT TABLE summed) UNION ALL (TABLE summed EXCEPT TABLE should_be)) AS either
        EXCEPT
        SELECT account_id, close_date FROM aht.changed_days
    ),
    marked AS (
        INSERT INTO aht.changed_quarters (account_id, quarter_start, changed_by)
        SELECT account_id, close_date::timestamp AT TIME ZONE zone.timezone, 0
        FROM differing
        JOIN reporting.account_timezone AS zone USING (account_id)
        ON CONFLICT DO NOTHING -- another audit found it at the same moment
    )
    SELECT account_id, close_date FROM differing ORDER BY 1, 2
$$;

COMMENT ON FUNCTION aht.mark_differing_days IS 'Mark the days from this one on whose rollups are not what their segments add up to';
