-- Least privilege for the warehouse: three roles that cannot log in, to be granted to those who do.
--
--   aht_owner    owns `aht` and `reporting`, and migrates them
--   aht_loader   reads, adds and changes rows of `aht`, and removes none
--   aht_reader   reads the views of `reporting`, and nothing else
--
-- Run it with psql in the warehouse's database, as a superuser, or as the database's owner with CREATEROLE:
--
--   psql -d warehouse -f roles.sql
--
-- Then, for example:
--
--   CREATE ROLE migrator LOGIN PASSWORD '…' IN ROLE aht_owner;     -- of WAREHOUSE_ADMIN_URL
--   ALTER ROLE migrator SET role = aht_owner;                      -- what it creates belongs to aht_owner
--   CREATE ROLE nightly LOGIN PASSWORD '…' IN ROLE aht_loader;     -- of WAREHOUSE_URL
--   CREATE ROLE analyst LOGIN PASSWORD '…' IN ROLE aht_reader;
--
-- It may be run at any time and any number of times. A warehouse that another role has migrated is handed over to
-- aht_owner; where that role goes on loading, grant it aht_loader.
--
-- Where the server compiles queries (JIT, as Debian's does), those of single segments may take half as long again. It is
-- switched off for each login, as members do not inherit it from aht_reader: ALTER ROLE analyst SET jit = off.
--
-- It takes nothing from PUBLIC, which before Postgres 15 may create tables in the schema public:
-- REVOKE CREATE ON SCHEMA public FROM PUBLIC.

\set ON_ERROR_STOP on
SET client_min_messages = warning;

BEGIN;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['aht_owner', 'aht_loader', 'aht_reader'] LOOP
        IF to_regrole(name) IS NULL THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        END IF;
    END LOOP;
    -- Only a member may give something to a role, or set its default privileges.
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        GRANT aht_owner TO CURRENT_USER;
    END IF;
END $$;

GRANT CONNECT ON DATABASE :"DBNAME" TO aht_owner, aht_loader, aht_reader;
GRANT TEMPORARY ON DATABASE :"DBNAME" TO aht_loader;

CREATE SCHEMA IF NOT EXISTS aht AUTHORIZATION aht_owner;
ALTER SCHEMA aht OWNER TO aht_owner;
CREATE SCHEMA IF NOT EXISTS reporting AUTHORIZATION aht_owner;
GRANT USAGE, CREATE ON SCHEMA reporting TO aht_owner; -- which stays its owner's where it was there, as others may use it

-- Everything in `aht`, and our views of `reporting`.
DO $$
DECLARE
    relation regclass;
    routine regprocedure;
BEGIN
    FOR relation IN
        SELECT oid
        FROM pg_class
        WHERE relowner <> 'aht_owner'::regrole
            AND (
                relnamespace = 'aht'::regnamespace AND relkind IN ('r', 'p', 'v')
                OR relnamespace = 'reporting'::regnamespace AND relkind = 'v' AND relname IN (
                    'account_timezone', 'agent_day', 'agent_segments', 'agent_skill_day', 'conversation_metrics',
                    'day_coverage', 'group_day', 'skill_day', 'skill_interval', 'skill_transfers'
                )
            )
    LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO aht_owner', relation); -- of a view too
    END LOOP;
    FOR routine IN SELECT oid FROM pg_proc WHERE pronamespace = 'aht'::regnamespace AND proowner <> 'aht_owner'::regrole
    LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO aht_owner', routine);
    END LOOP;
END $$;

GRANT USAGE ON SCHEMA aht TO aht_loader;
GRANT USAGE ON SCHEMA reporting TO aht_reader;

-- What later migrations create. Each migration adds the rights on tables by their name (warehouse/migrate.py).
ALTER DEFAULT PRIVILEGES FOR ROLE aht_owner IN SCHEMA aht GRANT SELECT, INSERT ON TABLES TO aht_loader;
ALTER DEFAULT PRIVILEGES FOR ROLE aht_owner IN SCHEMA reporting GRANT SELECT ON TABLES TO aht_reader;

-- What is there.
GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA aht TO aht_loader;
DO $$
DECLARE
    relation regclass;
BEGIN
    IF to_regclass('aht.agent_segments') IS NOT NULL THEN
        GRANT UPDATE ON aht.agent_segments, aht.rejected_segments TO aht_loader; -- the ledger's rows are only ever added
        REVOKE INSERT ON aht.alembic_version FROM aht_loader;
    END IF;
    IF to_regclass('aht.names') IS NOT NULL THEN
        GRANT UPDATE ON aht.names, aht.name_revisions TO aht_loader;
    END IF;
    FOR relation IN
        SELECT oid
        FROM pg_class
        WHERE relnamespace = 'reporting'::regnamespace AND relkind = 'v' AND relowner = 'aht_owner'::regrole
    LOOP
        EXECUTE format('GRANT SELECT ON %s TO aht_reader', relation);
    END LOOP;
END $$;

COMMIT;
