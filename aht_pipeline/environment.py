"""What the environment and `.env` set: every value exactly as it is written there, every name known or told of."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from io import StringIO
from pathlib import Path

from dotenv.parser import parse_stream

from aht_pipeline.errors import SettingsError

_FILE = Path(".env")
_PREFIXES = ("AHT_", "LIVEPERSON_", "WAREHOUSE_")
_OF_THE_TESTS = "AHT_TEST_CALLS"
_ALIKE, _ALL_BUT_THE_SAME = 0.75, 0.91  # as difflib measures it; ANT_HOME is 0.88 like AHT_HOME, and another program's

_WHITE_SPACE = " \t\n\v\f\r\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_QUOTES = "\"'`´„‚〝〞〟＂＇｀「」『』"  # beside those that Unicode calls initial and final
_NOT_SEEN = re.compile(  # though they count as printable; U+FFFD stands where a character was lost
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\ufffd\U000e0100-\U000e01ef]"
)

# What Kubernetes sets for a Service: https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_OF_A_SERVICE = re.compile(r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)", re.A)


@dataclass(frozen=True)
class Given:
    """values: what is set, by the variable's name in lower case; never empty, without white space around it.

    unknown: a sentence about each variable that looks like one of ours and is none.
    """

    values: dict[str, str] = field(repr=False)
    unknown: list[str]


def read_given(known: Collection[str]) -> Given:
    """What is set for the variables `known` (in lower case); the environment wins over `.env`.

    Names count in any case. Raises SettingsError for a `.env` that cannot be read, naming the line, and for a variable
    that is set twice, to different values.
    """
    of_file = list(_read_file(_FILE))
    of_process = list(os.environ.items())
    values = _values(of_file, known, f" in {_FILE.absolute()}") | _values(of_process, known, "")
    return Given(values, _unknown([*of_process, *of_file], [name.upper() for name in known]))


def refuse_unseen(value: str) -> str:
    """The value itself. Raises ValueError, never showing it, for unseen characters and quotes around."""
    for place, char in enumerate(value, start=1):
        if "\ud800" <= char <= "\udfff":
            raise ValueError("holds bytes that are no UTF-8")
        if not char.isprintable() or _NOT_SEEN.match(char):
            name = unicodedata.name(char, "a control character" if unicodedata.category(char) == "Cc" else "no name")
            hint = (
                " (in .env, a backslash in double quotes makes one: use single quotes)"
                if char in "\a\b\f\n\r\t\v"
                else ""
            )
            raise ValueError(f"holds U+{ord(char):04X}, {name}, as character {place}: write it without{hint}")
    if value and _is_quote(value[0]) and _is_quote(value[-1]):
        raise ValueError("is set with quotes around it, which count as part of it: write it without the quotes")
    return value


def _is_quote(char: str) -> bool:
    return char in _QUOTES or unicodedata.category(char) in ("Pi", "Pf")


def _read_file(file: Path) -> Iterator[tuple[str, str]]:
    """The names and values of the file, none where there is none; `$` and `${…}` are text like any other."""
    for binding in parse_stream(StringIO(_text(file))):
        if binding.error or (binding.key and not re.fullmatch(r"[\w.-]+", binding.key, re.A)):
            text = binding.original.string
            line = binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")
            raise SettingsError(
                f"{file.absolute()}, line {line}: cannot be read: write NAME=value, or NAME='value' where the value "
                "holds blanks, quotes or #"
            )
        if binding.key and binding.value:
            yield binding.key, binding.value


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise SettingsError(f"{file.absolute()} is not written in UTF-8: save it as that") from None
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not file.is_symlink():
            return ""
        raise SettingsError(
            f"{file.absolute()} cannot be read ({error.strerror}): it must be a file which this user can read, or none"
        ) from None


def _values(pairs: Iterable[tuple[str, str]], known: Collection[str], where: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, text in pairs:
        value = text.strip(_WHITE_SPACE)
        if name.lower() in known and value and values.setdefault(name.lower(), value) != value:
            raise SettingsError(f"{name.upper()}: is set twice{where}, to different values: leave one")
    return values


def _unknown(pairs: Iterable[tuple[str, str]], known: Collection[str]) -> list[str]:
    """A sentence each, with the nearest known name. Of a name only what a variable's name may hold is told."""
    told = {}
    for name, value in pairs:
        upper = name.upper()
        if not value.strip(_WHITE_SPACE) or upper in known or upper == _OF_THE_TESTS or _is_of_a_service(name, value):
            continue
        is_ours = upper.startswith(_PREFIXES)
        nearest = get_close_matches(upper, known, n=1, cutoff=_ALIKE if is_ours else _ALL_BUT_THE_SAME)
        if is_ours or nearest:
            shown = re.sub(r"[^\w.-].*", "…", name, count=1, flags=re.A | re.DOTALL)
            hint = f": did you mean {nearest[0]}?" if nearest else ""
            told[shown] = f"{shown} is no variable of aht-pipeline, and is not used{hint}"
    return list(told.values())


def _is_of_a_service(name: str, value: str) -> bool:
    is_port = name.endswith("_PORT") and value.startswith(("tcp://", "udp://", "sctp://"))
    return is_port or bool(_OF_A_SERVICE.fullmatch(name))
