"""The failures that the pipeline foresees: each says what happened, to what, and what to do about it."""

from __future__ import annotations


class AhtError(Exception):
    """A foreseen failure. Its text is complete for a person: no traceback is needed, no secret is in it."""


class SettingsError(AhtError):
    """A setting is missing or wrong; the text names the variable. Raised before any work (exit code 2)."""


class CannotTell(AhtError):
    """The command cannot begin as things stand, and has changed nothing (exit code 2)."""
