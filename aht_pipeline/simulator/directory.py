"""The account's users, skills and agent groups, as the account configuration APIs list them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from aht_pipeline.simulator.exchange import Endpoint, Reply, Request, json_reply

_VERSIONS = {Endpoint.USERS: "6.0", Endpoint.SKILLS: "4.0", Endpoint.GROUPS: "4.0"}
_SKILLS = (
    "Billing",
    "Technical support",
    "Orders",
    "Returns",
    "Delivery",
    "Contracts",
    "Complaints",
    "New customers",
    "Cancellations",
    "Warranty",
    "Spare parts",
    "Appointments",
)
_GROUPS = ("North", "South", "East", "West", "Nights", "Weekends")

Row = dict[str, Any]


class Directory:
    """Rows that tests may change at any time, from any thread; each change gives the list another revision.

    agents, skills, groups: the ids there are; all names are made up.
    ignores_select: whether every field is sent, whatever was selected.
    """

    def __init__(
        self,
        agents: Iterable[int] = range(3_000_000_101, 3_000_000_108),
        skills: Iterable[int] = range(4_100_000_001, 4_100_000_001 + len(_SKILLS)),
        groups: Iterable[int] = range(510_001, 510_001 + len(_GROUPS)),
        *,
        ignores_select: bool = False,
    ) -> None:
        self.ignores_select = ignores_select
        self._lock = threading.Lock()
        self._rows: dict[Endpoint, dict[int, Row]] = {
            Endpoint.USERS: {agent: _user(agent) for agent in agents},
            Endpoint.SKILLS: _named(skills, _SKILLS),
            Endpoint.GROUPS: _named(groups, _GROUPS),
        }
        self._revisions = dict.fromkeys(self._rows, 1)

    def put(self, kind: Endpoint, number: int, **fields: object) -> None:
        """Add this row, or change fields of it."""
        with self._lock:
            self._rows[kind][number] = {"id": number, "deleted": False} | self._rows[kind].get(number, {}) | fields
            self._revisions[kind] += 1

    def remove(self, kind: Endpoint, number: int) -> None:
        """Take a row away, so that it is not even listed as deleted. Raises KeyError where there is none."""
        with self._lock:
            del self._rows[kind][number]
            self._revisions[kind] += 1

    def answer(self, request: Request) -> Reply:
        """The list of the request's kind, or 304 where that is the revision that the client has."""
        parameters = dict(request.parameters)
        if causes := _causes(request.endpoint, parameters):
            return json_reply(400, {"causes": causes, "message": "The request is not valid"})
        with self._lock:
            revision = str(self._revisions[request.endpoint])
            rows = list(self._rows[request.endpoint].values())
        headers = (("ac-revision", revision),)
        if request.if_match == revision:
            return Reply(304, headers=headers)
        if parameters.get("include_deleted") != "true":
            rows = [row for row in rows if str(row["deleted"]).lower() != "true"]
        selected = None if self.ignores_select else parameters["select"].split(",")
        shown = [_quoted(place, _selected(row, selected)) for place, row in enumerate(rows)]
        reply = json_reply(200, shown)
        return Reply(reply.status, reply.body, headers=headers)


def _user(number: int) -> Row:
    return {
        "id": number,
        "deleted": False,
        "nickname": f"Agent {number}",
        "isEnabled": True,
        "userTypeId": 1,
        "loginName": f"login.{number}",
        "fullName": f"Full Name {number}",
        "email": f"agent.{number}@example.test",
        "mobileNumber": f"+1 555 {number}",
        "password": "********",
    }


def _named(numbers: Iterable[int], names: tuple[str, ...]) -> dict[int, Row]:
    return {
        number: {"id": number, "deleted": False, "name": names[place % len(names)], "description": "made up"}
        for place, number in enumerate(numbers)
    }


def _causes(kind: Endpoint, parameters: Mapping[str, str]) -> list[str]:
    causes = []
    if parameters.get("v") != _VERSIONS[kind]:
        causes.append(f"v: must be {_VERSIONS[kind]}")
    if not parameters.get("select"):
        causes.append("select: is required")
    return causes


def _selected(row: Row, selected: list[str] | None) -> Row:
    return row if selected is None or selected == ["$all"] else {name: row[name] for name in selected if name in row}


def _quoted(place: int, row: Row) -> Row:
    """Every third row has its numbers and booleans quoted, as the API has them now and then."""
    if place % 3 != 1:
        return row
    return {name: str(value).lower() if isinstance(value, bool | int) else value for name, value in row.items()}
