"""Has somebody change a text in their own editor."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from rqueue.errors import ConfigError


def is_there() -> bool:
    """Whether somebody sits at a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def edited(text: str, suffix: str) -> str:
    """The text as it is after $VISUAL or $EDITOR (vi where there is neither) has ended.

    Raises:
        ConfigError: the editor cannot be started, or says by its exit code that nothing is to be done.
    """
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    descriptor, name = tempfile.mkstemp(suffix=suffix, prefix="rqueue-")
    file = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        code = subprocess.run([*shlex.split(command), name], check=False).returncode
        if code:
            raise ConfigError(f"the editor {command!r} ended with exit code {code}: nothing was changed")
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as exc:
        raise ConfigError(f"the editor {command!r} cannot be used: {exc}") from None
    finally:
        file.unlink(missing_ok=True)
