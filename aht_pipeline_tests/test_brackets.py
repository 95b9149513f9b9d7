"""JSON is taken apart by its strings and brackets, whatever else is wrong with it, and always in linear time."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aht_pipeline.brackets import elements, members, nests_deeper

MARKS = st.lists(st.sampled_from([*'{}[],:"\\', " ", "\n", "a", "\xff"]), max_size=14).map(
    lambda marks: "".join(marks).encode("latin-1")
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("array", "parts"),
    [
        (b"[]", []),
        (b" [ ] ", []),
        (b"[1]", [b"1"]),
        (b'[ 1 ,\n[2, 3],\t{"a": [4]} ]', [b"1", b"[2, 3]", b'{"a": [4]}']),
        (b'["],[", "\\"],", "\\\\", ","]', [b'"],["', b'"\\"],"', b'"\\\\"', b'","']),
        (b"[NaN, \xff, 01, tru, \x00, ]", [b"NaN", b"\xff", b"01", b"tru", b"\x00", b""]),
        (b"[1:2]", [b"1:2"]),
        (b"", None),
        (b"[", None),
        (b"]", None),
        (b"[]]", None),
        (b"[[]", None),
        (b"[][]", None),
        (b"[}{]", None),
        (b'["]', None),
        (b'["\\"]', None),
        (b"[] 1", None),
        (b"{}", None),
    ],
)
def test_an_array_falls_into_its_elements_as_they_stand_there(array: bytes, parts: list[bytes] | None) -> None:
    assert elements(array) == parts


@pytest.mark.parametrize(
    ("json_object", "parts"),
    [
        (b"{}", []),
        (b'{"a":1}', [(b'"a"', b"1")]),
        (b' { "a" : [1, 2] ,\n"b":{"c": 3} } ', [(b'"a"', b"[1, 2]"), (b'"b"', b'{"c": 3}')]),
        (b'{"a:,": NaN, "a:,": , \xff: "\x00"}', [(b'"a:,"', b"NaN"), (b'"a:,"', b""), (b"\xff", b'"\x00"')]),
        (b'{"a"}', None),
        (b'{"a": 1,}', None),
        (b'{"a", "b"}', None),
        (b'{"a": 1: 2}', None),
        (b'{"a": 1', None),
        (b'{"a": 1}}', None),
        (b'{"a": "}', None),
        (b"[]", None),
    ],
)
def test_an_object_falls_into_its_members_as_they_stand_there(
    json_object: bytes, parts: list[tuple[bytes, bytes]] | None
) -> None:
    assert members(json_object) == parts


@given(st.lists(VALUES) | st.dictionaries(st.text(), VALUES), st.booleans(), st.sampled_from([None, 1]))
def test_whatever_is_json_falls_into_what_it_is_made_of(value: object, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()

    if isinstance(value, list):
        assert [json.loads(part) for part in elements(text) or []] == value
    else:
        assert {json.loads(name): json.loads(part) for name, part in members(text) or []} == value


@settings(max_examples=500)
@given(MARKS)
def test_what_is_no_json_falls_into_the_same_as_for_a_reader_of_single_bytes(marks: bytes) -> None:
    for text in (marks, b"[" + marks + b"]", b"{" + marks + b"}"):
        assert elements(text) == slow_elements(text)


def slow_elements(text: bytes) -> list[bytes] | None:
    text = text.strip(b" \t\n\r")
    if text[:1] != b"[" or text[-1:] != b"]":
        return None
    parts, depth, in_string, start, at = [], 0, False, 1, 0
    while at < len(text):
        mark = text[at : at + 1]
        if text[at : at + 2] in (b"\\\\", b'\\"'):
            at += 1
        elif mark == b'"':
            in_string = not in_string
        elif not in_string:
            depth += (mark in (b"{", b"[")) - (mark in (b"}", b"]"))
            if depth < 1 and at < len(text) - 1:
                return None
            if depth == 1 and mark == b",":
                parts.append(text[start:at].strip(b" \t\n\r"))
                start = at + 1
        at += 1
    parts.append(text[start:-1].strip(b" \t\n\r"))
    if depth or in_string:
        return None
    return [] if parts == [b""] else parts


@pytest.mark.parametrize(
    "inner",
    [
        pytest.param(b'"' + b'\\"' * 500_000 + b'"', id="escapes"),
        pytest.param(b'"' + b"\\" * 1_000_000, id="backslashes"),
        pytest.param(b'"' * 1_000_000, id="quotes"),
        pytest.param(b"[" * 500_000 + b"]" * 500_000, id="nested"),
        pytest.param(b"[" * 1_000_000, id="unclosed"),
        pytest.param(b"," * 300_000, id="commas"),
        pytest.param(b"1" * 1_000_000, id="digits"),
    ],
)
def test_no_million_bytes_take_long(inner: bytes) -> None:
    began = time.process_time()

    elements(b"[" + inner + b"]")

    assert time.process_time() - began < 5  # anything that grows with the square would take hours


@pytest.mark.parametrize(
    ("text", "deepest"),
    [(b"1", 0), (b'"[["', 0), (b"[]", 1), (b'{"[": [1, {"a": 2}], "b": [[]]}', 3), (b"[" * 9 + b"]" * 9, 9)],
)
def test_the_depth_is_that_of_the_brackets_outside_strings(text: bytes, deepest: int) -> None:
    assert [nests_deeper(text, levels) for levels in range(12)] == [levels < deepest for levels in range(12)]
