"""The wheel: what a plain `pip install` gives works in an empty directory, without the checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

import pytest

from aht_pipeline import embedded

CHECKOUT = Path(__file__).parents[1]
PATIENCE_S = 900  # for a package index or a machine that is slow; then the test fails instead of hanging


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(CHECKOUT)], folder)
    return next(folder.glob("aht_pipeline-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Iterator[Path]:
    """The `bin` of a new environment that holds the wheel and what it asks for, and nothing of the checkout."""
    with TemporaryDirectory() as folder:  # deleted at once: it is large
        home = Path(folder)
        venv.create(home, with_pip=True)
        # Modules are compiled when they are first imported: most never are.
        run([str(home / "bin" / "pip"), "install", "--quiet", "--no-compile", str(wheel)], home)
        yield home / "bin"


def run(command: list[str], folder: Path) -> str:
    """What the command prints, run in `folder` with no setting of ours; it must succeed."""
    ours = re.compile("AHT_|LIVEPERSON_|WAREHOUSE_|DAGSTER_|PYTHON|VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if not ours.match(name)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_wheel_carries_the_migrations(wheel: Path) -> None:
    carried = set(ZipFile(wheel).namelist())
    migrations = {file for file in (CHECKOUT / "migrations").rglob("*") if file.suffix in (".py", ".sql")}
    assert CHECKOUT / "migrations" / "env.py" in migrations
    assert {f"aht_pipeline/_migrations/{file.relative_to(CHECKOUT / 'migrations')}" for file in migrations} <= carried


def test_the_wheel_carries_nothing_but_the_package(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    folders = {name.split("/")[0] for name in names}
    assert not [name for name in names if "__pycache__" in name or "test" in name]
    assert "aht_pipeline" in folders
    assert {folder for folder in folders if not folder.endswith(".dist-info")} == {"aht_pipeline"}


def test_the_command_explains_itself_in_an_empty_directory(installed: Path, tmp_path: Path) -> None:
    told = run([str(installed / "aht-pipeline"), "--help"], tmp_path)
    for command in ("demo", "up", "down", "migrate", "load", "status", "doctor", "psql", "segments", "simulator"):
        assert re.search(rf"^\s+{command}\b", told, re.MULTILINE), command
    assert list(tmp_path.iterdir()) == []


def test_dagster_loads_the_installed_definitions(installed: Path, tmp_path: Path) -> None:
    run([str(installed / "dagster"), "definitions", "validate", "-m", "aht_pipeline.definitions"], tmp_path)


def test_the_installed_demo_loads_fourteen_days(installed: Path, tmp_path: Path) -> None:
    command = str(installed / "aht-pipeline")
    try:
        run([command, "demo"], tmp_path)
        days = run([command, "psql", "-At", "-c", "select count(distinct day) from aht.loads"], tmp_path)
        run([command, "down"], tmp_path)
    finally:
        embedded.remove(tmp_path / ".aht" / "demo")
    assert days == "14\n"
