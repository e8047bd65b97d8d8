"""Whether Python files have changed, for development."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

_SKIPPED: Final = frozenset({"__pycache__", "node_modules", "site-packages", "venv"})


class Sources:
    """The Python files below a directory, without hidden directories and installed packages.

    Args:
        directory: where to look.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = directory
        self._seen = dict(self._look())

    def changed(self) -> str | None:
        """A file that was changed, added or removed since the last call, None when there is none."""
        before, self._seen = self._seen, dict(self._look())
        different = before.items() ^ self._seen.items()
        return min((name for name, _ in different), default=None)

    def _look(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for folder, below, files in os.walk(self._directory):
            below[:] = [name for name in below if not name.startswith(".") and name not in _SKIPPED]
            for name in files:
                if name.endswith(".py"):
                    path = os.path.join(folder, name)  # noqa: PTH118 - thousands of files, each second
                    try:
                        status = os.stat(path)  # noqa: PTH116
                    except OSError:
                        continue  # it is gone already
                    yield path, (status.st_mtime_ns, status.st_size)
