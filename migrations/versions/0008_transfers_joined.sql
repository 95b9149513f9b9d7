-- The next segment of each transfer is joined to it, not looked for in every conversation: a filter by day then leaves
-- little to join, and the segments are read once, in parallel, without being sorted.
CREATE OR REPLACE VIEW reporting.skill_transfers AS
SELECT
    counted.account_id,
    counted.close_date,
    counted.from_skill_id,
    counted.to_skill_id,
    counted.to_is_known,
    counted.transfers,
    coalesce(from_skill.name, counted.from_skill_id::text) AS from_skill_name,
    coalesce(to_skill.name, counted.to_skill_id::text) AS to_skill_name
FROM (
    SELECT account_id, close_date, from_skill_id, to_skill_id, to_is_known, count(*) AS transfers
    FROM (
        SELECT
            transfer.account_id,
            (transfer.end_time AT TIME ZONE zone.timezone)::date AS close_date,
            transfer.skill_id AS from_skill_id,
            (array_agg(later.skill_id ORDER BY later.start_time, later.end_time, later.segment_id))[1] AS to_skill_id,
            count(later.segment_id) > 0 AS to_is_known
        FROM aht.agent_segments AS transfer
        JOIN reporting.account_timezone AS zone ON zone.account_id = transfer.account_id
        LEFT JOIN aht.agent_segments AS later
            ON later.account_id = transfer.account_id
            AND later.conversation_id = transfer.conversation_id
            AND (later.start_time, later.end_time, later.segment_id)
                > (transfer.start_time, transfer.end_time, transfer.segment_id)
        WHERE transfer.end_reason = 'skillTransfer'
        GROUP BY transfer.account_id, transfer.segment_id, close_date, from_skill_id
    ) AS followed
    GROUP BY account_id, close_date, from_skill_id, to_skill_id, to_is_known
) AS counted
LEFT JOIN aht.names AS from_skill
    ON from_skill.account_id = counted.account_id AND from_skill.kind = 'skill' AND from_skill.id = counted.from_skill_id
LEFT JOIN aht.names AS to_skill
    ON to_skill.account_id = counted.account_id AND to_skill.kind = 'skill' AND to_skill.id = counted.to_skill_id;

COMMENT ON VIEW reporting.skill_transfers IS 'Transfers from skill to skill by day: segments that ended with skillTransfer, and the skill of the conversation''s next segment. Filed under the day on which the transferred segment closed, in the account''s time zone. It reads every segment, whatever the filter, which takes seconds for every ten million of them';
