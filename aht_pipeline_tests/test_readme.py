"""The README and the page on reporting: every command and every query in them works, as it stands there."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from aht_pipeline import embedded
from aht_pipeline.settings import Variables
from aht_pipeline_tests.outside import COMMAND, Outside, days_ago

CHECKOUT = Path(__file__).parents[1]
README = (CHECKOUT / "README.md").read_text()
REPORTING = (CHECKOUT / "docs" / "reporting.md").read_text()


def fenced(language: str, page: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    return [line for block in fenced("sh", page) for line in block.splitlines()]


SET_UP = commands(README)[:2]  # run by CI, each in an environment of its own
WORKED_QUERIES = re.findall(r"^```sql\n(.*?)^```\n\n```text\n(.*?)^```", REPORTING, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    """A directory in which the demo was run."""
    outside = Outside(tmp_path_factory.mktemp("readme"))
    (outside.directory / ".env.example").write_bytes((CHECKOUT / ".env.example").read_bytes())
    try:
        outside.run("demo")
        yield outside
    finally:
        embedded.remove(outside.home / "demo")


def test_the_first_command_ends_in_the_demo_and_the_second_in_the_tests() -> None:
    assert SET_UP[0].endswith("aht-pipeline demo")
    assert SET_UP[1].endswith("pytest")
    assert all("python3 -m venv" in line and "pip install" in line for line in SET_UP)


@pytest.mark.parametrize("line", commands(README)[2:] + commands(REPORTING))
def test_a_command_of_the_readme_works_on_the_demo(demo: Outside, line: str) -> None:
    path = f"{COMMAND.parent}:{demo.environment['PATH']}"
    done = subprocess.run(
        ["bash", "-c", _in_these_days(line)],
        cwd=demo.directory,
        env=demo.environment | {"PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    missing_days = 1 if line == "aht-pipeline status" else 0  # the demo has left out the older days
    assert done.returncode == missing_days, done.stdout + done.stderr


def _in_these_days(line: str) -> str:
    """The line with its days moved to the present, the distance between them kept."""
    return re.sub(r"2026-11-(\d\d)", lambda found: str(days_ago(24 - int(found[1]))), line)


@pytest.mark.parametrize("statement", fenced("sql", README))
def test_a_query_of_the_readme_finds_something_in_the_demo(demo: Outside, statement: str) -> None:
    done = demo.run("psql", "-At", "-v", "ON_ERROR_STOP=1", "-c", statement)
    assert len(done.stdout.splitlines()) >= 10
    assert all(line.count("|") >= 2 and not line.endswith("|") for line in done.stdout.splitlines())


def test_every_query_of_the_page_on_reporting_shows_its_result() -> None:
    assert [statement for statement, _ in WORKED_QUERIES] == fenced("sql", REPORTING)
    assert len(WORKED_QUERIES) == 6


@pytest.mark.parametrize(("statement", "shown"), WORKED_QUERIES)
def test_a_worked_query_gives_a_result_like_the_one_that_is_shown(demo: Outside, statement: str, shown: str) -> None:
    done = demo.run("psql", "-X", "-q", "-P", "footer=off", "-v", "ON_ERROR_STOP=1", "-c", statement)
    columns, example = _cells(done.stdout), _cells(shown)
    assert list(columns) == list(example)
    for name, values in columns.items():
        assert len(values) == len(example[name]), name
        assert any(values), name


def _cells(printed: str) -> dict[str, list[str]]:
    """The columns of a table as psql prints it, by name."""
    head, _, *rows = ([cell.strip() for cell in line.split("|")] for line in printed.splitlines() if line)
    return dict(zip(head, map(list, zip(*rows, strict=True)), strict=True))


def test_the_demo_doubles_nothing_when_it_is_run_again(demo: Outside) -> None:
    counted = "SELECT count(*), count(DISTINCT segment_id), max(revision) FROM aht.agent_segments"
    before = demo.query(counted)
    assert "0 new, 0 updated" in demo.run("demo").stdout
    assert demo.query(counted) == before


def test_every_setting_is_in_the_readme_and_in_the_example() -> None:
    example = (CHECKOUT / ".env.example").read_text()
    for name in Variables.model_fields:
        assert f"`{name.upper()}`" in README, name
        if name not in ("liveperson_api_url", "liveperson_domain_api_url"):
            assert f"\n{name.upper()}=" in example, name
