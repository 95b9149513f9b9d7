-- Where clocks are put back from one o'clock, a day has two midnights, and begins with the first. Postgres takes the
-- second: the hour between them was reported on the day before.
CREATE OR REPLACE VIEW aht.changed_days AS
SELECT
    account_id,
    close_date,
    CASE
        WHEN ((day_start - interval '1 hour') AT TIME ZONE timezone)::date = close_date THEN day_start - interval '1 hour'
        ELSE day_start
    END AS day_start,
    CASE
        WHEN ((day_end - interval '1 hour') AT TIME ZONE timezone)::date > close_date THEN day_end - interval '1 hour'
        ELSE day_end
    END AS day_end
FROM (
    SELECT DISTINCT account_id, zone.timezone, (quarter.quarter_start AT TIME ZONE zone.timezone)::date AS close_date
    FROM aht.changed_quarters AS quarter
    JOIN reporting.account_timezone AS zone USING (account_id)
) AS changed
CROSS JOIN LATERAL (
    SELECT
        close_date::timestamp AT TIME ZONE timezone AS day_start,
        (close_date + 1)::timestamp AT TIME ZONE timezone AS day_end
) AS midnight;
