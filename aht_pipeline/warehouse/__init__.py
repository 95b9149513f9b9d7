"""The Postgres warehouse: its tables, its migrations, the load of a day, and the ledger of what is loaded."""
