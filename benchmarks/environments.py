"""The contenders' Python environments: one for each file of pinned requirements, made when it is needed first.

``rqueue`` is the repository's own environment, in which the harness runs too.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
REQUIREMENTS = ROOT / "benchmarks" / "requirements"
MADE = ROOT / ".venv-bench"


def python_of(environment: str) -> Path:
    """The environment's interpreter."""
    return Path(sys.executable) if environment == "rqueue" else MADE / environment / "bin" / "python"


def make(environment: str) -> None:
    """Install what is pinned, unless that has been done."""
    if environment == "rqueue":
        return
    pinned, stamp = REQUIREMENTS / f"{environment}.txt", MADE / environment / ".ready"
    fingerprint = hashlib.sha256(pinned.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == fingerprint:
        return
    print(f"set-up: .venv-bench/{environment}, from {pinned.relative_to(ROOT)}", flush=True)
    python = python_of(environment)
    if uv := _find_uv():
        _run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(MADE / environment))
        install = [uv, "pip", "install", "--quiet", "--python", str(python)]
    else:
        _run(sys.executable, "-m", "venv", "--clear", str(MADE / environment))
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run(*install, "--require-hashes", "-r", str(pinned))
    stamp.write_text(fingerprint)


def version_of(environment: str, package: str) -> str:
    """The installed version of a package there."""
    ask = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
    return _run(str(python_of(environment)), "-c", ask, package).strip()


def _find_uv() -> str | None:
    found = shutil.which("uv")  # which may be a shim that fails
    works = found and subprocess.run([found, "--version"], check=False, capture_output=True).returncode == 0
    return found if works else None


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
