"""Work done in another thread while the caller is busy with what was done before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")

_END = object()


def one_ahead(items: Iterator[Item], give_up: Callable[[], None] | None = None) -> Iterator[Item]:
    """The same items, each made in another thread while the caller is busy with the one before.

    give_up: called when the caller wants no more of them, to end the making of the next one, which is waited for.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="aht-ahead") as worker:
        upcoming = worker.submit(next, items, _END)
        try:
            while (item := upcoming.result()) is not _END:
                upcoming = worker.submit(next, items, _END)
                yield item  # type: ignore[misc]
        except BaseException:
            if give_up:
                give_up()
            raise
