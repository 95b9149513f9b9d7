"""Dagster's event log in SQLite, with its databases kept open.

Dagster's own opens the database, makes an engine and compiles the statement anew for each of some twenty statements
that telling of a day takes: more than half of the time of that, in a process that is loading the next day meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Self

import sqlalchemy as sa
from dagster._core.storage.event_log.sqlite.sqlite_event_log import (  # what `dagster.yaml` names has no public name
    INDEX_SHARD_NAME,
    SqliteEventLogStorage,
)
from dagster._serdes import ConfigurableClassData

_BUSY_TIMEOUT_S = 20


class KeptOpenEventLog(SqliteEventLogStorage):
    """The same files, read and written in the same way; of the runs' databases only the one last used stays open."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: dict[str, sa.Engine] = {}
        self._in_use = threading.Lock()
        super().__init__(base_dir, inst_data)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> Self:
        return cls(inst_data=inst_data, **config_value)

    def run_connection(self, run_id: str | None = None) -> AbstractContextManager[sa.Connection]:
        return self._transaction(str(run_id))

    def index_connection(self) -> AbstractContextManager[sa.Connection]:
        return self._transaction(INDEX_SHARD_NAME)

    def dispose(self) -> None:
        super().dispose()
        with self._in_use:
            for name in list(self._engines):
                self._engines.pop(name).dispose()

    @contextmanager
    def _transaction(self, name: str) -> Iterator[sa.Connection]:
        with self._in_use, self._engine(name).begin() as connection:
            yield connection

    def _engine(self, name: str) -> sa.Engine:
        if name not in self._engines:
            with super().run_connection(name):
                pass  # which makes the database where there is none
            for other in self._engines.keys() - {INDEX_SHARD_NAME}:
                self._engines.pop(other).dispose()
            self._engines[name] = sa.create_engine(
                self.conn_string_for_shard(name), connect_args={"timeout": _BUSY_TIMEOUT_S}
            )
        return self._engines[name]
