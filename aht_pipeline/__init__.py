"""LivePerson Actual Handle Time, every night, complete and right, in a Postgres warehouse."""
