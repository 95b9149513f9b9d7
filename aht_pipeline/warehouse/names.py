"""Keeps what agents, skills and agent groups are called: also what is deleted at LivePerson, also former names."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from aht_pipeline.warehouse.tables import name_revisions, names

if TYPE_CHECKING:
    from aht_pipeline.source import NameKind, NameList

# Two that store at once take turns at this row, and the older reading comes to nothing.
_NOTE_REVISION = sa.text(
    """
    INSERT INTO aht.name_revisions AS known (account_id, kind, revision, read_at)
    VALUES (:account_id, :kind, :revision, :read_at)
    ON CONFLICT (account_id, kind) DO UPDATE SET revision = excluded.revision, read_at = excluded.read_at
    WHERE known.read_at < excluded.read_at OR known.read_at > now() + interval '2 minutes' -- by a clock that was ahead
    RETURNING true
    """
)

# Every part sees the table as it was before all of them.
_STORE = sa.text(
    """
    WITH listed AS (
        SELECT *
        FROM json_to_recordset(CAST(:names AS json))
            AS row (id bigint, name text, is_deleted boolean, is_enabled boolean, user_type_id bigint)
    ),
    known AS (
        SELECT * FROM aht.names WHERE account_id = :account_id AND kind = :kind
    ),
    renamed AS (
        INSERT INTO aht.former_names (account_id, kind, id, replaced_at, name)
        SELECT :account_id, :kind, known.id, :read_at, known.name
        FROM known
        JOIN listed USING (id)
        WHERE known.name <> listed.name
        RETURNING id
    ),
    written AS (
        INSERT INTO aht.names
            (account_id, kind, id, name, is_deleted, is_enabled, user_type_id, first_seen_at, last_seen_at)
        SELECT :account_id, :kind, id, name, is_deleted, is_enabled, user_type_id, :read_at, :read_at
        FROM listed
        ON CONFLICT (account_id, kind, id) DO UPDATE SET
            name = excluded.name,
            is_deleted = excluded.is_deleted,
            is_enabled = excluded.is_enabled,
            user_type_id = excluded.user_type_id,
            last_seen_at = excluded.last_seen_at
    ),
    vanished AS (
        UPDATE aht.names SET is_deleted = true
        WHERE account_id = :account_id AND kind = :kind AND NOT is_deleted
            AND :lists_all AND id NOT IN (SELECT id FROM listed)
        RETURNING id
    )
    SELECT
        (SELECT count(*) FROM listed WHERE id NOT IN (SELECT id FROM known)) AS new,
        (SELECT count(*) FROM renamed) AS renamed,
        (SELECT count(*) FROM vanished)
            + (SELECT count(*) FROM known JOIN listed USING (id) WHERE listed.is_deleted AND NOT known.is_deleted)
            AS deleted
    """
)

_FORGET_AGENTS = sa.text("SELECT aht.forget_agent_names(:account_id)")

_COUNT_MATCHES = sa.text(
    """
    SELECT count(*) AS seen, count(known.id) AS named
    FROM (
        SELECT DISTINCT agent_id
        FROM aht.day_measures
        WHERE account_id = :account_id AND grain = 'agent' AND close_date >= current_date - 30
    ) AS agent
    LEFT JOIN aht.names AS known
        ON known.account_id = :account_id AND known.kind = 'agent' AND known.id = agent.agent_id
    """
)


@dataclass(frozen=True)
class NamesStored:
    """How many names of a kind are known (`known`), and of them, what this reading changed."""

    known: int
    new: int = 0
    renamed: int = 0
    deleted: int = 0


@dataclass(frozen=True)
class AgentsNamed:
    """How many agents had segments in the last 30 days (`seen`), and how many of their ids have a name."""

    seen: int
    named: int


def known_revision(warehouse: sa.Engine, account_id: str, kind: NameKind) -> str | None:
    """The revision of the list of names that is stored; None where there is none."""
    table = name_revisions.c
    with warehouse.connect() as connection:
        return connection.scalar(
            sa.select(table.revision).where(table.account_id == account_id, table.kind == kind.value)
        )


def store_names(warehouse: sa.Engine, account_id: str, listed: NameList, read_at: datetime) -> NamesStored:
    """Bring a whole list of names into the warehouse, with its revision, in one transaction.

    What is known and no longer listed is marked as deleted, unless a row of the list could not be read: it may be that.
    A list of nothing at all is not believed, and one older than what is stored adds nothing.
    read_at: when the list was asked for.
    """
    of_kind = {"account_id": account_id, "kind": listed.kind.value}
    with warehouse.begin() as connection:
        if not listed.names or not connection.scalar(
            _NOTE_REVISION, of_kind | {"revision": listed.revision, "read_at": read_at}
        ):
            return NamesStored(_count(connection, account_id, listed.kind))
        stored = connection.execute(
            _STORE,
            of_kind
            | {
                "read_at": read_at,
                "lists_all": listed.skipped == 0,
                "names": json.dumps([asdict(name) for name in listed.names], ensure_ascii=False),
            },
        ).one()
        return NamesStored(_count(connection, account_id, listed.kind), stored.new, stored.renamed, stored.deleted)


def note_unchanged_names(warehouse: sa.Engine, account_id: str, kind: NameKind, read_at: datetime) -> NamesStored:
    """Note that the stored list of names is still that of LivePerson."""
    table = name_revisions.c
    with warehouse.begin() as connection:
        connection.execute(
            sa.update(name_revisions)
            .where(table.account_id == account_id, table.kind == kind.value, table.read_at < read_at)
            .values(read_at=read_at)
        )
        return NamesStored(_count(connection, account_id, kind))


def forget_agent_names(warehouse: sa.Engine, account_id: str) -> int:
    """Remove all that is stored of agents' names; how many there were."""
    with warehouse.begin() as connection:
        return int(connection.execute(_FORGET_AGENTS, {"account_id": account_id}).scalar_one())


def agents_named(warehouse: sa.Engine, account_id: str) -> AgentsNamed | None:
    """How well agents' ids and names fit together; None where no name of an agent is known."""
    with warehouse.connect() as connection:
        counted = connection.execute(_COUNT_MATCHES, {"account_id": account_id}).one()
        table = names.c
        some = sa.select(names).where(table.account_id == account_id, table.kind == "agent").exists()
        return AgentsNamed(counted.seen, counted.named) if connection.scalar(sa.select(some)) else None


def _count(connection: sa.Connection, account_id: str, kind: NameKind) -> int:
    table = names.c
    of_kind = sa.select(sa.func.count()).where(table.account_id == account_id, table.kind == kind.value)
    return int(connection.execute(of_kind).scalar_one())
