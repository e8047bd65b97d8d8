"""A master, its replicas and the sentinels that watch them, on loopback, with settings for quick failovers."""

import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import Self

import redis

from rqueue.embedded import EmbeddedServer

SERVICE = "mymaster"
DOWN_AFTER_MS = 500
PATIENCE_S = 20.0


class Fleet:
    """Servers of which the first is the master, and their sentinels.

    Args:
        servers: how many, the master among them.
        sentinels: how many; their quorum is a majority.
        options: of the servers.
        down_after_ms: who is silent for so long counts as down.
    """

    def __init__(
        self,
        servers: int = 2,
        sentinels: int = 3,
        options: Mapping[str, str] | None = None,
        down_after_ms: int = DOWN_AFTER_MS,
    ) -> None:
        self._down_after_ms = down_after_ms
        self._stack = ExitStack()
        self._sizes, self._options = (servers, sentinels), {"repl-diskless-sync-delay": "0", **(options or {})}
        self.servers: list[EmbeddedServer] = []
        self.sentinels: list[EmbeddedServer] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for server in (*self.servers, *self.sentinels):
            if server.alive:
                os.kill(server.pid, signal.SIGCONT)  # a frozen one hears no SIGTERM
        self._stack.close()

    def _start(self) -> None:
        servers, sentinels = self._sizes
        for _ in range(servers):
            following = {"replicaof": f"127.0.0.1 {self.servers[0].port}"} if self.servers else {}
            options = {**self._options, **following}
            self.servers.append(self._stack.enter_context(EmbeddedServer(options=options)))
        for server in self.servers[1:]:
            until(lambda server=server: ask(server, "INFO", "replication")["master_link_status"] == "up")
        options = {
            f"sentinel monitor {SERVICE}": f"127.0.0.1 {self.servers[0].port} {sentinels // 2 + 1}",
            f"sentinel down-after-milliseconds {SERVICE}": str(self._down_after_ms),
            f"sentinel failover-timeout {SERVICE}": "3000",
        }
        # Told of each other: it would take them two seconds to find out.
        peers = {free_port(): secrets.token_hex(20) for _ in range(sentinels)}
        for port, name in peers.items():
            known = {
                f"sentinel known-sentinel {SERVICE} 127.0.0.1 {other}": peers[other] for other in peers if other != port
            }
            own = {**options, **known, "sentinel myid": name}
            started = EmbeddedServer(options=own, arguments=["--sentinel"], port=port)
            self.sentinels.append(self._stack.enter_context(started))
        until(lambda: all(self._is_ready(sentinel) for sentinel in self.sentinels))

    def _is_ready(self, sentinel: EmbeddedServer) -> bool:
        """Whether it knows the others: before that it lets no failover begin."""
        known = ask(sentinel, "SENTINEL", "MASTER", SERVICE)
        return (int(known["num-slaves"]), int(known["num-other-sentinels"])) == (
            len(self.servers) - 1,
            len(self.sentinels) - 1,
        )

    @property
    def url(self) -> str:
        """The fleet as rqueue takes it."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}"

    def master(self) -> EmbeddedServer:
        """The master, as the newest configuration of any sentinel that answers has it."""
        found = []
        for sentinel in self.sentinels:
            if sentinel.alive:
                try:
                    known = ask(sentinel, "SENTINEL", "MASTER", SERVICE)
                    place = ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
                except (redis.ConnectionError, redis.TimeoutError):
                    continue
                found.append((int(known["config-epoch"]), int(place[1])))
        port = max(found)[1]
        return next(server for server in self.servers if server.port == port)

    def elected(self, old: EmbeddedServer) -> float:
        """Wait until another than the old one is the master; when that was, on the monotonic clock."""
        until(lambda: self.master() is not old)
        return time.monotonic()

    def follow(self, server: EmbeddedServer) -> None:
        """Start a server that was killed, as a replica: it would take the sentinels 8 s to make it one."""
        server.options["replicaof"] = f"127.0.0.1 {self.master().port}"
        server.start()
        until(lambda: ask(server, "INFO", "replication")["master_link_status"] == "up")

    def settle(self) -> None:
        """Wait until every sentinel sees all other servers follow the master: only then another failover may begin."""
        others = {server.port for server in self.servers} - {self.master().port}
        # A sentinel waits for 8 s before it makes a replica of what was the master, and looks at one every 10 s.
        until(lambda: all(self._followers(sentinel) >= others for sentinel in self.sentinels), 4 * PATIENCE_S)

    def _followers(self, sentinel: EmbeddedServer) -> set[int]:
        flat = ask(sentinel, "SENTINEL", "REPLICAS", SERVICE)
        return {
            int(each["port"])
            for each in flat
            if each["flags"] == "slave" and each["master-link-status"] == "ok" and each["role-reported"] == "slave"
        }


def free_port() -> int:
    """A port on which nobody listens, below those that the system gives to connections."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port := 20_000 + secrets.randbelow(12_000)))
            return port


def ask(server: EmbeddedServer, *command: str):
    """What a server answers, within a second."""
    options = {"decode_responses": True, "socket_timeout": 1, "socket_connect_timeout": 1}
    with redis.Redis(port=server.port, **options) as client:
        return client.execute_command(*command)


def until(is_so: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Return as soon as it is so: what a server does by itself, it tells nobody."""
    end_s = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < end_s, "it did not come to that"
        time.sleep(0.01)
