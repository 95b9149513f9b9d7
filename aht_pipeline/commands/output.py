"""What a command prints while it does something that matters more than its being read."""

from __future__ import annotations

import os
import sys

import click


def say(text: str) -> None:
    """Print a line; where nobody reads on, or the disk of a log is full, say nothing more."""
    try:
        click.echo(text)
    except OSError:
        let_go_of_stdout()


def let_go_of_stdout() -> None:
    """Have what is still to be printed vanish, and not fail the command at its very end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
