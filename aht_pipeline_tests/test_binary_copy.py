"""What Postgres reads from the bytes made for its binary COPY is what was there."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from aht_pipeline import warehouse
from aht_pipeline.warehouse.binary_copy import binary_rows
from aht_pipeline.warehouse.connection import copy_in

_MOMENT = pa.timestamp("us", "UTC")
_COLUMNS: dict[str, tuple[str, pa.DataType, list[Any]]] = {
    "key": ("text", pa.string(), ["a", "c", "b", "é", "d", "ca"]),
    "words": ("text", pa.string(), ["a", "", 'zwei, "drei"\n\\N', "смена 🎧", None, "x" * 100_000]),
    "large": ("text", pa.large_string(), ["", None, "b", "c", "d", "e"]),
    "whole": ("bigint", pa.int64(), [0, -1, 2**63 - 1, -(2**63), None, 1]),
    "small": ("integer", pa.int32(), [0, -1, 2**31 - 1, -(2**31), None, 1]),
    "moment": (
        "timestamptz",
        _MOMENT,
        [
            datetime(2000, 1, 1, tzinfo=UTC),
            datetime(1999, 12, 31, 23, 59, 59, 999_999, UTC),
            datetime(1, 1, 1, tzinfo=UTC),
            datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC),
            None,
            datetime(2026, 10, 25, 1, 30, tzinfo=UTC),
        ],
    ),
    "listed": ("text[]", pa.list_(pa.string()), [[], ["one"], ["", "NULL", '"', "{,}"], [None, "after"], ["é"], []]),
    "document": ("jsonb", pa.string(), ['{"a": [1, null]}', "null", None, "{}", '"é"', "1e5"]),
    "nothing": ("text", pa.string(), [None] * 6),
}
_CONSTANTS = {
    "account": ("text", pa.scalar("demo")),
    "revision": ("integer", pa.scalar(1, pa.int32())),
    "loaded_at": ("timestamptz", pa.scalar(datetime(2026, 3, 1, 12, tzinfo=UTC), _MOMENT)),
    "absent": ("text", pa.scalar(None, pa.string())),
}


def test_every_type_and_its_extremes_are_read_back_as_they_were(shared_database_url: str) -> None:
    rows = pa.table({name: pa.array(values, type_) for name, (_, type_, values) in _COLUMNS.items()})
    constants = [scalar for _, scalar in _CONSTANTS.values()]

    read = _through_postgres(shared_database_url, rows, constants)

    expected = [
        {**row, "document": None if row["document"] is None else json.loads(row["document"])}
        | {name: scalar.as_py() for name, (_, scalar) in _CONSTANTS.items()}
        for row in sorted(rows.to_pylist(), key=lambda row: row["key"])
    ]
    assert read == expected


def test_no_rows_and_a_part_of_a_table_are_read_as_that(shared_database_url: str) -> None:
    rows = pa.table({name: pa.array(values, type_) for name, (_, type_, values) in _COLUMNS.items()})

    assert _through_postgres(shared_database_url, rows.slice(0, 0), []) == []
    part = _through_postgres(shared_database_url, rows.slice(2, 2), [])
    assert [(row["words"], row["whole"], row["listed"]) for row in part] == [  # by their keys, "b" and "é"
        ('zwei, "drei"\n\\N', 2**63 - 1, ["", "NULL", '"', "{,}"]),
        ("смена 🎧", -(2**63), [None, "after"]),
    ]


def _through_postgres(url: str, rows: pa.Table, constants: list[pa.Scalar]) -> list[dict[str, Any]]:
    types = {name: type_ for name, (type_, *_) in _COLUMNS.items()}
    types |= {name: type_ for name, (type_, _) in _CONSTANTS.items()} if constants else {}
    columns = ", ".join(f"{name} {type_}" for name, type_ in types.items())
    with warehouse.engine(url).begin() as connection:
        connection.execute(sa.text(f"CREATE TEMPORARY TABLE copied ({columns}) ON COMMIT DROP"))
        copied = binary_rows(rows, "key", constants, jsonb=frozenset({"document"}))
        copy_in(connection, "COPY copied FROM STDIN WITH (FORMAT binary)", copied)
        return [dict(row) for row in connection.execute(sa.text("SELECT * FROM copied")).mappings()]
