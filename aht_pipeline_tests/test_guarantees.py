"""The table of guarantees: each names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
TABLE = (HERE.parent / "docs" / "guarantees.md").read_text()


def test_every_guarantee_names_a_test_that_is_there() -> None:
    rows = [
        line for line in TABLE.splitlines() if line.startswith("| ") and not line.startswith(("| promise", "| ---"))
    ]
    assert rows
    for row in rows:
        named = re.findall(r"`(test_\w+\.py)::(?:\w+::)?(test_\w+)`", row)
        assert named, row
        for file, test in named:
            assert re.search(rf"^ *def {test}\(", (HERE / file).read_text(), re.MULTILINE), f"{file}::{test}"
