-- A partition for each grain of the daily rollup: those of agents and skills together are nine tenths of it, and whoever
-- reads another grain need not pass over them.

ALTER TABLE aht.daily_rollup RENAME TO daily_rollup_whole;
ALTER INDEX aht.daily_rollup_pkey RENAME TO daily_rollup_whole_pkey;

CREATE TABLE aht.daily_rollup (
    LIKE aht.daily_rollup_whole INCLUDING COMMENTS,
    CONSTRAINT daily_rollup_pkey PRIMARY KEY (account_id, grain, close_date, agent_id, skill_id, group_id)
) PARTITION BY LIST (grain);

COMMENT ON TABLE aht.daily_rollup IS 'Sums and quantiles of agent_segments by day and grain; read the views of reporting by day instead';

DO $$
DECLARE
    grain text;
    part text;
BEGIN
    FOREACH grain IN ARRAY ARRAY['agent', 'skill', 'group', 'agent_skill'] LOOP
        part := 'daily_rollup_' || grain;
        EXECUTE format('CREATE TABLE aht.%I (LIKE aht.daily_rollup INCLUDING COMMENTS)', part);
        EXECUTE format('ALTER TABLE aht.daily_rollup ATTACH PARTITION aht.%I FOR VALUES IN (%L)', part, grain);
        EXECUTE format('COMMENT ON TABLE aht.%I IS %L', part, 'The rows of daily_rollup of one grain, ' || grain);
    END LOOP;
END $$;

INSERT INTO aht.daily_rollup SELECT * FROM aht.daily_rollup_whole;

CREATE OR REPLACE VIEW aht.day_measures AS
SELECT rollup.*
FROM aht.daily_rollup AS rollup
WHERE NOT EXISTS (
    SELECT FROM aht.changed_days AS day
    WHERE day.account_id = rollup.account_id AND day.close_date = rollup.close_date
)
UNION ALL
SELECT * FROM aht.changed_day_measures;

DROP TABLE aht.daily_rollup_whole;
