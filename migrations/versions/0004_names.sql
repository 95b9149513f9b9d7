-- What agents, skills and agent groups are called, and these names beside the ids in the reports.

CREATE TABLE aht.names (
    account_id text NOT NULL,
    kind text NOT NULL,
    id bigint NOT NULL,
    name text NOT NULL,
    is_deleted boolean NOT NULL,
    is_enabled boolean,
    user_type_id bigint,
    first_seen_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    CONSTRAINT names_pkey PRIMARY KEY (account_id, kind, id)
);

COMMENT ON TABLE aht.names IS 'What agents, skills and agent groups are called. Those that are deleted at LivePerson stay';
COMMENT ON COLUMN aht.names.account_id IS 'LivePerson account';
COMMENT ON COLUMN aht.names.kind IS 'What the id is one of: agent, skill or group';
COMMENT ON COLUMN aht.names.id IS 'LivePerson''s id of the agent, skill or agent group';
COMMENT ON COLUMN aht.names.name IS 'Nickname of the agent, name of the skill or agent group';
COMMENT ON COLUMN aht.names.is_deleted IS 'Whether it is deleted at LivePerson, or no longer listed there';
COMMENT ON COLUMN aht.names.is_enabled IS 'Whether the agent can log in; null for skills and groups';
COMMENT ON COLUMN aht.names.user_type_id IS 'LivePerson''s id of the kind of user; null for skills and groups';
COMMENT ON COLUMN aht.names.first_seen_at IS 'First reply that listed it; never moves';
COMMENT ON COLUMN aht.names.last_seen_at IS 'Last reply that listed it; where nothing has changed, LivePerson lists nothing';

CREATE TABLE aht.former_names (
    account_id text NOT NULL,
    kind text NOT NULL,
    id bigint NOT NULL,
    replaced_at timestamptz NOT NULL,
    name text NOT NULL,
    CONSTRAINT former_names_pkey PRIMARY KEY (account_id, kind, id, replaced_at)
);

COMMENT ON TABLE aht.former_names IS 'Names that were replaced by others';
COMMENT ON COLUMN aht.former_names.account_id IS 'LivePerson account';
COMMENT ON COLUMN aht.former_names.kind IS 'What the id is one of: agent, skill or group';
COMMENT ON COLUMN aht.former_names.id IS 'LivePerson''s id of the agent, skill or agent group';
COMMENT ON COLUMN aht.former_names.replaced_at IS 'First reply that listed it under its next name';
COMMENT ON COLUMN aht.former_names.name IS 'Name that it had until then';

CREATE TABLE aht.name_revisions (
    account_id text NOT NULL,
    kind text NOT NULL,
    revision text,
    read_at timestamptz NOT NULL,
    CONSTRAINT name_revisions_pkey PRIMARY KEY (account_id, kind)
);

COMMENT ON TABLE aht.name_revisions IS 'How far the names of each kind are read';
COMMENT ON COLUMN aht.name_revisions.account_id IS 'LivePerson account';
COMMENT ON COLUMN aht.name_revisions.kind IS 'Whose names: agent, skill or group';
COMMENT ON COLUMN aht.name_revisions.revision IS 'LivePerson''s revision of the list: sent along with the next request, which lists nothing where it is the same; null where LivePerson gave none';
COMMENT ON COLUMN aht.name_revisions.read_at IS 'When the list was last read, or found unchanged';

-- With its owner's rights: whoever loads may remove nothing else.
CREATE FUNCTION aht.forget_agent_names(account text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    removed bigint;
BEGIN
    DELETE FROM aht.name_revisions WHERE account_id = account AND kind = 'agent';
    DELETE FROM aht.former_names WHERE account_id = account AND kind = 'agent';
    DELETE FROM aht.names WHERE account_id = account AND kind = 'agent';
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END $$;

COMMENT ON FUNCTION aht.forget_agent_names IS 'Remove all names of an account''s agents; how many there were';

-- The joins are by the whole key of `names`: a report that shows no name does without them.

CREATE OR REPLACE VIEW reporting.agent_segments AS
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
    coalesce(loaded.settled, false) AS is_settled,
    coalesce(agent.name, segment.agent_id::text) AS agent_name,
    coalesce(skill.name, segment.skill_id::text) AS skill_name,
    coalesce(agent_group.name, segment.group_id::text) AS group_name
FROM aht.agent_segments AS segment
JOIN reporting.account_timezone AS zone USING (account_id)
LEFT JOIN (SELECT account_id, day, bool_or(settled) AS settled FROM aht.loads GROUP BY account_id, day) AS loaded
    ON loaded.account_id = segment.account_id AND loaded.day = (segment.end_time AT TIME ZONE zone.timezone)::date
LEFT JOIN aht.names AS agent
    ON agent.account_id = segment.account_id AND agent.kind = 'agent' AND agent.id = segment.agent_id
LEFT JOIN aht.names AS skill
    ON skill.account_id = segment.account_id AND skill.kind = 'skill' AND skill.id = segment.skill_id
LEFT JOIN aht.names AS agent_group
    ON agent_group.account_id = segment.account_id AND agent_group.kind = 'group' AND agent_group.id = segment.group_id;

COMMENT ON COLUMN reporting.agent_segments.agent_name IS 'What the agent is called (the nickname), or the id where no name is known';
COMMENT ON COLUMN reporting.agent_segments.skill_name IS 'What the skill is called, or the id where no name is known; null for none';
COMMENT ON COLUMN reporting.agent_segments.group_name IS 'What the agent group is called, or the id where no name is known; null for none';

CREATE OR REPLACE VIEW reporting.skill_interval AS
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
    measured.close_date,
    coalesce(skill.name, nullif(measured.skill_id, -1)::text) AS skill_name
FROM aht.interval_measures AS measured
JOIN reporting.account_timezone AS zone USING (account_id)
LEFT JOIN (SELECT account_id, day, bool_or(settled) AS settled FROM aht.loads GROUP BY account_id, day) AS loaded
    ON loaded.account_id = measured.account_id AND loaded.day = measured.close_date
LEFT JOIN aht.names AS skill
    ON skill.account_id = measured.account_id AND skill.kind = 'skill' AND skill.id = measured.skill_id;

COMMENT ON COLUMN reporting.skill_interval.skill_name IS 'What the skill is called, or the id where no name is known; null for none';

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
    coalesce(loaded.settled, false) AS is_settled,
    coalesce(agent.name, measured.agent_id::text) AS agent_name
FROM aht.day_measures AS measured
LEFT JOIN (SELECT account_id, day, bool_or(settled) AS settled FROM aht.loads GROUP BY account_id, day) AS loaded
    ON loaded.account_id = measured.account_id AND loaded.day = measured.close_date
LEFT JOIN aht.names AS agent
    ON agent.account_id = measured.account_id AND agent.kind = 'agent' AND agent.id = measured.agent_id
WHERE measured.grain = 'agent';

COMMENT ON COLUMN reporting.agent_day.agent_name IS 'What the agent is called (the nickname), or the id where no name is known';

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
    coalesce(loaded.settled, false) AS is_settled,
    coalesce(skill.name, nullif(measured.skill_id, -1)::text) AS skill_name
FROM aht.day_measures AS measured
LEFT JOIN (SELECT account_id, day, bool_or(settled) AS settled FROM aht.loads GROUP BY account_id, day) AS loaded
    ON loaded.account_id = measured.account_id AND loaded.day = measured.close_date
LEFT JOIN aht.names AS skill
    ON skill.account_id = measured.account_id AND skill.kind = 'skill' AND skill.id = measured.skill_id
WHERE measured.grain = 'skill';

COMMENT ON COLUMN reporting.skill_day.skill_name IS 'What the skill is called, or the id where no name is known; null for none';

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
    coalesce(loaded.settled, false) AS is_settled,
    coalesce(agent_group.name, nullif(measured.group_id, -1)::text) AS group_name
FROM aht.day_measures AS measured
LEFT JOIN (SELECT account_id, day, bool_or(settled) AS settled FROM aht.loads GROUP BY account_id, day) AS loaded
    ON loaded.account_id = measured.account_id AND loaded.day = measured.close_date
LEFT JOIN aht.names AS agent_group
    ON agent_group.account_id = measured.account_id AND agent_group.kind = 'group' AND agent_group.id = measured.group_id
WHERE measured.grain = 'group';

COMMENT ON COLUMN reporting.group_day.group_name IS 'What the agent group is called, or the id where no name is known; null for none';

CREATE OR REPLACE VIEW reporting.agent_skill_day AS
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
    coalesce(loaded.settled, false) AS is_settled,
    coalesce(agent.name, measured.agent_id::text) AS agent_name,
    coalesce(skill.name, nullif(measured.skill_id, -1)::text) AS skill_name
FROM aht.day_measures AS measured
LEFT JOIN (SELECT account_id, day, bool_or(settled) AS settled FROM aht.loads GROUP BY account_id, day) AS loaded
    ON loaded.account_id = measured.account_id AND loaded.day = measured.close_date
LEFT JOIN aht.names AS agent
    ON agent.account_id = measured.account_id AND agent.kind = 'agent' AND agent.id = measured.agent_id
LEFT JOIN aht.names AS skill
    ON skill.account_id = measured.account_id AND skill.kind = 'skill' AND skill.id = measured.skill_id
WHERE measured.grain = 'agent_skill';

COMMENT ON COLUMN reporting.agent_skill_day.agent_name IS 'What the agent is called (the nickname), or the id where no name is known';
COMMENT ON COLUMN reporting.agent_skill_day.skill_name IS 'What the skill is called, or the id where no name is known; null for none';

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
    GROUP BY account_id, close_date, from_skill_id, to_skill_id, to_is_known
) AS counted
LEFT JOIN aht.names AS from_skill
    ON from_skill.account_id = counted.account_id AND from_skill.kind = 'skill' AND from_skill.id = counted.from_skill_id
LEFT JOIN aht.names AS to_skill
    ON to_skill.account_id = counted.account_id AND to_skill.kind = 'skill' AND to_skill.id = counted.to_skill_id;

COMMENT ON COLUMN reporting.skill_transfers.from_skill_name IS 'What the skill that transferred is called, or its id where no name is known; null for none';
COMMENT ON COLUMN reporting.skill_transfers.to_skill_name IS 'What the skill of the next segment is called, or its id where no name is known; null where there is no id';
