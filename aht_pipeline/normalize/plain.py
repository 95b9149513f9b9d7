"""The fast path: rows that have exactly the documented fields and types are decoded a page at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Annotated

import msgspec

LONG_MIN, LONG_MAX = -(2**63), 2**63 - 1
KEY_CHARS = 600
"""The longest key that Postgres can surely index: its limit is 2,704 bytes, and a character may take four."""

_Long = Annotated[int, msgspec.Meta(ge=LONG_MIN, le=LONG_MAX)]
_Duration = Annotated[int, msgspec.Meta(ge=0, le=LONG_MAX)]
_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Key = Annotated[str, msgspec.Meta(min_length=1, max_length=KEY_CHARS)]


class Segment(msgspec.Struct, kw_only=True, gc=False, forbid_unknown_fields=True):
    """A row as documented, in the order in which the API sends the fields (which decodes fastest)."""

    segmentId: _Key  # noqa: N815 - the API's names
    startTime: _Text  # noqa: N815
    startTimeL: _Long | None = None  # noqa: N815
    endTime: _Text  # noqa: N815
    endTimeL: _Long | None = None  # noqa: N815
    conversationId: _Text  # noqa: N815
    agentId: _Long  # noqa: N815
    employeeId: str | None = None  # noqa: N815
    skillId: _Long | None = None  # noqa: N815
    groupId: _Long | None = None  # noqa: N815
    endReason: str | None = None  # noqa: N815
    totalHandleTimeMillis: _Duration  # noqa: N815
    EndReason: str | None = None  # as the API reference's table spells it


class PlainDecoder:
    """Decodes rows that have the documented fields and, beside them, some that the API added."""

    def __init__(self, added_fields: Iterable[str] = ()) -> None:
        self.added_fields = frozenset(added_fields)
        names = {f"added_{number}": field for number, field in enumerate(sorted(self.added_fields))}
        row = msgspec.defstruct(
            "Row",
            [(name, msgspec.Raw, msgspec.Raw()) for name in names],
            bases=(Segment,),
            rename=names,
            kw_only=True,
            gc=False,
        )
        page = msgspec.defstruct("Rows", [("segments", list[row])])  # type: ignore[valid-type]
        self._row_decoder = msgspec.json.Decoder(row)
        self._page_decoder = msgspec.json.Decoder(page)
        self._added = [(field, attrgetter(name)) for name, field in names.items()]

    def decode_page(self, body: bytes) -> list[Segment] | None:
        """Every row of the reply; None when one of them is not plain, or the body is no reply."""
        try:
            return self._page_decoder.decode(body).segments  # type: ignore[no-any-return, attr-defined]
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def decode_row(self, raw: msgspec.Raw) -> Segment | None:
        """The row; None when it is not plain."""
        try:
            return self._row_decoder.decode(raw)  # type: ignore[return-value]
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def added_values(self, rows: Sequence[Segment]) -> dict[str, list[str | None]]:
        """The added fields that any of these rows has, sorted by name: each row's value as it was sent, None for none.

        A byte that is no UTF-8 becomes an escape that JSON does not know, so that the text is seen to be no JSON.
        """
        columns = {field: [value_of(row) for row in rows] for field, value_of in self._added}
        return {
            field: [str(value, "utf-8", "backslashreplace") if value else None for value in values]
            for field, values in columns.items()
            if any(values)
        }
