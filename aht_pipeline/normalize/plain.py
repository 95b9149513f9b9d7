"""The fast path: rows that have exactly the documented fields and types are decoded a page at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec.structs import astuple

from aht_pipeline.pages import UNREADABLE, without_mark

LONG_MIN, LONG_MAX = -(2**63), 2**63 - 1
KEY_CHARS = 600
"""The longest key that Postgres can surely index: its limit is 2,704 bytes, and a character may take four."""
DEEPEST = 200
"""Levels of objects and arrays in an added field. Decoders go far beyond, but how far depends on the stack below."""

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


Fields = Mapping[str, Sequence[Any]]
"""Rows by field: under each field's name every row's value; of a field that the API added the JSON, empty for none."""


class PlainDecoder:
    """Decodes rows that have the documented fields and, beside them, some that the API added.

    fields: the names of all of them, in the order of the rows that it makes.
    """

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
        self.fields = (*Segment.__struct_fields__, *names.values())
        self._row_decoder = msgspec.json.Decoder(row)
        self._page_decoder = msgspec.json.Decoder(page)

    def decode_pages(self, bodies: Iterable[bytes]) -> Fields | None:
        """Every row of these replies; None when one of them is not plain, or a body is no reply."""
        decode = self._page_decoder.decode
        try:
            return by_field(self.fields, (decode(without_mark(body)).segments for body in bodies))  # type: ignore[attr-defined]
        except UNREADABLE:
            return None

    def decode_row(self, raw: msgspec.Raw) -> Segment | None:
        """The row; None when it is not plain."""
        try:
            return self._row_decoder.decode(raw)  # type: ignore[return-value]
        except UNREADABLE:
            return None


def by_field(fields: Sequence[str], pages: Iterable[Collection[Segment]]) -> Fields:
    """The rows of these pages, which have these fields.

    A page at a time: its rows are few enough to be in the processor's cache still when they are taken apart.
    """
    values: dict[str, list[Any]] = {field: [] for field in fields}
    for page in pages:
        if page:  # without rows there are no columns
            for gathered, of_page in zip(values.values(), zip(*map(astuple, page), strict=True), strict=True):
                gathered += of_page
    return values
