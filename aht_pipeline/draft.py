"""The pages of one pull while it is walked: compressed as they come, on an unnamed local file, in constant memory."""

from __future__ import annotations

import hashlib
import os
import tempfile
from types import TracebackType
from typing import IO, Self

import zstandard


class Draft:
    """The pages of one pull while it is walked: a PageSink on an unnamed local file, for one thread at a time.

    Each mark ends a zstd frame, so that the file can be cut there; a `.zst` file may have many frames.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._compressor = zstandard.ZstdCompressor(level=1, write_checksum=True)
        self._frame: zstandard.ZstdCompressionWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def write(self, page: bytes) -> None:
        """Append a page. Line ends become spaces: JSON holds them between tokens only, never within a string."""
        if self._frame is None:
            self._frame = self._compressor.stream_writer(self._file, closefd=False)
        self._frame.write(page.replace(b"\n", b" ").replace(b"\r", b" "))
        self._frame.write(b"\n")

    def mark(self) -> int:
        """The place after the last page, for `rewind`: an offset in the compressed file."""
        if self._frame is not None:
            self._frame.flush(zstandard.FLUSH_FRAME)
            self._frame = None
        return self._file.tell()

    def rewind(self, mark: int) -> None:
        """Forget every page written since `mark`."""
        self._frame = None
        self._file.seek(mark)
        self._file.truncate()

    def finish(self) -> tuple[IO[bytes], str, int]:
        """The compressed file, at its start, with its sha256 and its size in bytes."""
        self.mark()
        size_bytes = self._file.seek(0, os.SEEK_END)
        self._file.seek(0)
        sha256 = hashlib.file_digest(self._file, "sha256").hexdigest()
        self._file.seek(0)
        return self._file, sha256, size_bytes
