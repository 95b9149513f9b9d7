"""What agents, skills and agent groups are called: one list each, from the account configuration APIs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any
from urllib.parse import quote

import msgspec

from aht_pipeline.services import ACCOUNT_CONFIG
from aht_pipeline.source.api import AhtApi

_GREATEST_ID = 2**63 - 1


class NameKind(StrEnum):
    """Whose names, as the warehouse calls them."""

    AGENT = "agent"
    SKILL = "skill"
    GROUP = "group"


@dataclass(frozen=True)
class Name:
    """What one id stands for.

    is_enabled, user_type_id: of agents; None where the API does not say.
    """

    id: int
    name: str
    is_deleted: bool
    is_enabled: bool | None = None
    user_type_id: int | None = None


@dataclass(frozen=True)
class NameList:
    """All names of a kind, each id once, deleted ones included.

    skipped: rows without a usable id or name. revision: what the API calls this state of the list, if it says.
    """

    kind: NameKind
    names: tuple[Name, ...]
    skipped: int
    revision: str | None


def read_names(api: AhtApi, kind: NameKind, revision: str | None = None) -> NameList | None:
    """The names of a kind; None where nothing has changed since this revision of the list.

    That an `agentId` of the AHT API is the `id` of a user is an inference: no document says so.
    Nothing but the selected fields is looked at: the users' API may send e-mail addresses, logins and phone numbers.
    Raises ApiError.
    """
    list_ = _LISTS[kind]
    account = quote(api.account_id, safe="")
    answer = api.http.get_if_changed(
        f"{api.url_of(ACCOUNT_CONFIG)}/api/account/{account}/configuration/le-users/{list_.path}",
        {"v": list_.version, "select": list_.select, "include_deleted": "true"},
        partial(_names, kind),
        revision=revision,
        authorisation=api.authorisation,
        hint=f"check that the key may read {list_.spoken_of}; without them reports show ids",
    )
    if answer is None:
        return None
    (names, skipped), new_revision = answer
    return NameList(kind, names, skipped, new_revision)


@dataclass(frozen=True)
class _List:
    path: str
    version: str
    select: str
    spoken_of: str


_LISTS = {
    NameKind.AGENT: _List("users", "6.0", "id,deleted,nickname,isEnabled,userTypeId", "users"),
    NameKind.SKILL: _List("skills", "4.0", "id,deleted,name", "skills"),
    NameKind.GROUP: _List("agentGroups", "4.0", "id,deleted,name", "agent groups"),
}


class _Row(msgspec.Struct, rename="camel"):
    """The selected fields, of whatever type; all others are skipped unread."""

    id: Any = None
    deleted: Any = None
    name: Any = None
    nickname: Any = None
    is_enabled: Any = None
    user_type_id: Any = None


def _names(kind: NameKind, body: bytes) -> tuple[tuple[Name, ...], int]:
    """The usable rows, of two with one id the last, and how many are not usable. Raises ValueError for no list."""
    rows = msgspec.json.decode(body, type=list[msgspec.Raw])
    usable = [name for row in rows if (name := _name(kind, row))]
    return tuple({name.id: name for name in usable}.values()), len(rows) - len(usable)


def _name(kind: NameKind, raw: msgspec.Raw) -> Name | None:
    try:
        row = msgspec.json.decode(raw, type=_Row)
    except msgspec.DecodeError:
        return None
    number = _whole(row.id)
    name = row.nickname if kind is NameKind.AGENT else row.name
    if number is None or not isinstance(name, str) or not name.strip() or "\0" in name:
        return None
    return Name(number, name, _truth(row.deleted) or False, _truth(row.is_enabled), _whole(row.user_type_id))


def _whole(value: object) -> int | None:
    """A number from 0 to 2^63 - 1, quoted or not."""
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,19}", str(value)):
        return None
    number = int(str(value))
    return number if number <= _GREATEST_ID else None


def _truth(value: object) -> bool | None:
    """A boolean, quoted or not."""
    return {"true": True, "false": False}.get(str(value).lower())
