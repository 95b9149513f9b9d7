"""`up` and `down`: the Dagster UI and daemon as long as one wants them, and what stops them for sure."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import click
import psutil

from aht_pipeline import embedded
from aht_pipeline.commands.configured import configured
from aht_pipeline.errors import AhtError
from aht_pipeline.home import open_dagster, open_warehouse, prepare_dagster_home
from aht_pipeline.settings import Settings, process_environment, read_demo_settings

_HOST = "127.0.0.1"
_FIRST_PORT = 3000
_READY_S = 120
_STOP_S = 15


class UpFailed(AhtError):
    """The UI or the daemon could not be started, or ended by itself."""


def run_up(port: int | None) -> int:
    """Serve until a signal comes; 0 then. Raises UpFailed where a process ends by itself."""
    settings = configured()
    settings.require_account()
    if not settings.demo:
        settings.require_keys()
    running = _Running(settings.home)
    running.refuse_a_second()
    port = _exactly(port) if port else _next_free()
    open_warehouse(settings).dispose()
    prepare_dagster_home(settings)
    if not settings.dagster_home_is_given:  # the runs of a given one may be executed anywhere
        _end_what_was_killed(settings)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a script's `&` left SIGINT ignored
        signal.signal(number, lambda *_: stop.set())
    url = f"http://{_HOST}:{port}"
    with _dagster(settings, port, url, running) as processes:
        click.echo(f"Starting Dagster; its logs are in {_logs(settings)} ...")
        if _wait_until_ready(url, processes, stop):
            click.echo(f"Dagster UI: {url}")
            click.echo(f"The nightly schedule ({settings.schedule}, {settings.timezone}) is on. Ctrl-C stops all.")
        while not stop.wait(0.5):
            _refuse_dead(processes, settings)
        click.echo("Stopping ...")
    return 0


def run_down() -> None:
    """Stop what runs in AHT_HOME and in the demo's home; nothing that is not there is an error."""
    configured()
    demo = read_demo_settings().home
    home = demo.parent
    stopped = False
    for each in (home, demo):
        stopped |= _Running(each).stop()
        if embedded.exists(each) and embedded.stop(each):
            click.echo(f"Stopped the embedded Postgres of {each}.")
            stopped = True
    if not stopped:
        click.echo(f"Nothing was running in {home}.")


def _end_what_was_killed(settings: Settings) -> None:
    from aht_pipeline.commands.remains import end_runs_of_the_dead  # imports Dagster, which `down` does without

    with open_dagster(settings) as instance:
        end_runs_of_the_dead(instance, and_of_the_daemon=True)


@dataclass(frozen=True)
class _Running:
    """The processes of an `up`, as noted in the home, so that `down` finds them even after `up` was killed."""

    home: Path

    @property
    def _file(self) -> Path:
        return self.home / "up.json"

    def note(self, pids: list[int]) -> None:
        started = {pid: psutil.Process(pid).create_time() for pid in pids}
        self._file.write_text(json.dumps(started))

    def forget(self) -> None:
        self._file.unlink(missing_ok=True)

    def processes(self) -> list[psutil.Process]:
        """Those that still run, and are the ones that were noted and not others with their numbers."""
        found = []
        with suppress(FileNotFoundError, ValueError):
            for pid, started in json.loads(self._file.read_text()).items():
                with suppress(psutil.NoSuchProcess):
                    process = psutil.Process(int(pid))
                    if process.create_time() == started and _runs(process):
                        found.append(process)
        return found

    def refuse_a_second(self) -> None:
        if self.processes():
            raise UpFailed(f"Dagster is up already for {self.home}: `aht-pipeline down` stops it")

    def stop(self) -> bool:
        """Whether there was something to stop. `up` itself stops its children; what is left of them is ended."""
        processes = self.processes()
        _end(processes)
        self.forget()
        if processes:
            click.echo(f"Stopped the Dagster UI and daemon of {self.home}.")
        return bool(processes)


@contextmanager
def _dagster(
    settings: Settings, port: int, url: str, running: _Running
) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """The webserver and the daemon, each with its own log; both are stopped at the end, with all they started."""
    module = ["-m", "aht_pipeline.definitions"]
    commands = {
        "webserver": ["-m", "dagster_webserver", "-h", _HOST, "-p", str(port), *module],
        "daemon": ["-m", "dagster._daemon", "run", *module],
    }
    logs = _logs(settings)
    logs.mkdir(parents=True, exist_ok=True)
    processes = {}
    sockets = tempfile.mkdtemp(prefix="aht-")  # of the code servers, which run what they are told; ours alone
    try:
        for name, arguments in commands.items():
            with (logs / f"{name}.log").open("wb") as log:
                processes[name] = subprocess.Popen(  # noqa: S603 - our own command line
                    [sys.executable, *arguments],
                    cwd=logs,  # Dagster puts a .env of its working directory over what it is given
                    env={"AHT_UI_URL": url} | process_environment(settings) | {"TMPDIR": sockets},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # a terminal's Ctrl-C comes through us
                )
        running.note([os.getpid(), *(process.pid for process in processes.values())])
        yield processes
    finally:
        _end([psutil.Process(process.pid) for process in processes.values() if process.poll() is None])
        running.forget()
        shutil.rmtree(sockets, ignore_errors=True)


def _end(processes: list[psutil.Process]) -> None:
    """Ask each to stop; what has not after a while, and whatever it had started, is killed."""
    everyone = {child for process in processes for child in [process, *_descendants(process)]}
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in _left_after(_STOP_S, everyone):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    _left_after(_STOP_S, everyone)


def _left_after(seconds: float, processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that still run when the time is up; it returns as soon as none does."""
    give_up_at = time.monotonic() + seconds
    while (left := [process for process in processes if _runs(process)]) and time.monotonic() < give_up_at:
        time.sleep(0.1)
    return left


def _runs(process: psutil.Process) -> bool:
    """Whether it runs: one that has ended and is only not yet collected by whoever started it does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _wait_until_ready(url: str, processes: dict[str, subprocess.Popen[bytes]], stop: threading.Event) -> bool:
    """Whether the UI answers; False where a signal came first."""
    give_up_at = time.monotonic() + _READY_S
    while not stop.wait(0.2):
        for name, process in processes.items():
            if process.poll() is not None:
                raise UpFailed(f"the {name} ended as it started (exit code {process.returncode}): see its log")
        if _answers(f"{url}/server_info"):
            return True
        if time.monotonic() > give_up_at:
            raise UpFailed(f"the Dagster UI did not answer at {url} within {_READY_S} s: see its log")
    return False


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - our own URL
            return True
    except OSError:
        return False


def _refuse_dead(processes: dict[str, subprocess.Popen[bytes]], settings: Settings) -> None:
    for name, process in processes.items():
        if process.poll() is not None:
            raise UpFailed(
                f"the {name} ended by itself (exit code {process.returncode}): see {_logs(settings)}/{name}.log"
            )


def _logs(settings: Settings) -> Path:
    return settings.home / "logs"


def _exactly(port: int) -> int:
    if not _is_free(port):
        raise UpFailed(f"port {port} is taken: choose another with --port, or none for the next free one")
    return port


def _next_free() -> int:
    return next(port for port in range(_FIRST_PORT, 65536) if _is_free(port))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a closed connection's TIME_WAIT takes it
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
    return True
