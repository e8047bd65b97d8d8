"""A real Redis Cluster for tests: three masters and three replicas on loopback, put together by plain commands."""

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import redis
from redis.crc import key_slot

from rqueue.embedded import EmbeddedServer, EmbeddedServerError

MASTERS = 3
SLOTS = 16_384
PATIENCE_S = 20.0
ATTEMPTS = 5

OPTIONS = {
    "cluster-enabled": "yes",
    "cluster-config-file": "nodes.conf",
    "cluster-node-timeout": "1000",
    "cluster-require-full-coverage": "no",  # a lost master must not stop the others
    "cluster-allow-replica-migration": "no",
    "cluster-replica-validity-factor": "0",
    "repl-diskless-sync-delay": "0",
    "repl-ping-replica-period": "1",
}

_EACH_SLOT = "each slot has a script of its own: what one does does not hang on another's"
_HEARD = "PUBLISH counts only those who listen at the node that was asked"
# Tests of the suites that hold for every store, and not for a cluster: file, or file and test -> why.
UNLIKE: Mapping[str, str] = {
    "broker/test_link.py": "about one connection to one server",
    "broker/test_claim.py::test_registered_in_one_of_two_queues_is_not_registered": _EACH_SLOT,
    "broker/test_renew.py::test_registered_in_one_of_two_queues_is_not_registered": _EACH_SLOT,
    "broker/test_pulse.py::test_it_beats_while_the_event_loop_stands_still": "looks past the verbs at one server",
    "broker/test_subscription.py::test_nothing_is_missed_from_the_report_on": _HEARD,
    "broker/test_subscription.py::test_the_last_word_counts": _HEARD,
    "broker/test_subscription.py::test_the_last_word_counts_in_the_next_turn_too": _HEARD,
    "worker/test_fetcher.py::test_the_audit_is_due_after_a_break_and_from_time_to_time": "about one connection",
    "worker/test_settler.py::test_while_its_id_is_alive_there_a_job_waits_here": "one command over two queues' keys",
    "worker/test_worker.py::test_strict_priority_over_queues_and_lists": "strict priority holds inside one slot",
}

# Files of these suites that are run on a cluster also where not all are.
ALWAYS = {
    f"broker/test_{verb}.py" for verb in ("ack", "audit", "cancel", "claim", "enqueue", "promote", "reap", "retry")
}


def is_on_a_cluster_always(item: Any) -> bool:
    """Whether a test is run on a cluster even where not all are."""
    return "/".join(item.path.parts[-2:]) in ALWAYS and not unlike_a_cluster(item)


def unlike_a_cluster(item: Any) -> str | None:
    """Why a test cannot be run on a cluster, or None."""
    place, name = "/".join(item.path.parts[-2:]), getattr(item, "originalname", item.name)
    return UNLIKE.get(place) or UNLIKE.get(f"{place}::{name}")


class Cluster:
    """Six servers. `servers[:3]` begin as masters, each with a third of the slots, and `servers[3:]` as their replicas.

    Args:
        options: more lines of each server's configuration.
    """

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        self.servers: list[EmbeddedServer] = []
        self._options = {**OPTIONS, **(options or {})}
        self._clients: dict[int, redis.Redis] = {}
        self._open: list[tuple[int, EmbeddedServer]] = []

    def start(self) -> Self:
        """Start the servers and return when each knows all slots, and each replica follows its master."""
        for attempt in range(ATTEMPTS):
            ports = _free_ports(2 * MASTERS)
            self.servers = [EmbeddedServer(options=self._options, port=port) for port in ports]
            try:
                with ThreadPoolExecutor(len(ports)) as threads:
                    list(threads.map(EmbeddedServer.start, self.servers))
                self._join()
                break
            except BaseException as exc:
                self.stop()
                if not isinstance(exc, EmbeddedServerError) or attempt == ATTEMPTS - 1:  # a port may be taken meanwhile
                    raise
        return self

    def _join(self) -> None:
        for place, server in enumerate(self.servers):
            self.ask(server, "CLUSTER", "SET-CONFIG-EPOCH", place + 1)
            if place < MASTERS:
                first, end = place * SLOTS // MASTERS, (place + 1) * SLOTS // MASTERS
                self.ask(server, "CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        for server in self.servers:
            for other in self.servers:
                if other is not server:
                    self.ask(server, "CLUSTER", "MEET", "127.0.0.1", other.port)
        self.until(lambda: all(self.info(server)["cluster_known_nodes"] == "6" for server in self.servers))
        for place, server in enumerate(self.servers[MASTERS:]):
            master = self.servers[place]
            self.until(lambda server=server, master=master: self._replicates(server, master))
        self.settle()

    def _replicates(self, server: EmbeddedServer, master: EmbeddedServer) -> bool:
        try:
            self.ask(server, "CLUSTER", "REPLICATE", self.id_of(master))
        except redis.ResponseError:  # it does not know the other's id yet
            return False
        return True

    def stop(self) -> None:
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        with ThreadPoolExecutor(2 * MASTERS) as threads:
            list(threads.map(EmbeddedServer.kill, self.servers))
        for server in self.servers:
            server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The cluster as rqueue takes it: two of its nodes."""
        return f"redis+cluster://127.0.0.1:{self.servers[0].port},127.0.0.1:{self.servers[4].port}"

    def client(self, server: EmbeddedServer) -> redis.Redis:
        """A client of that node alone."""
        if server.port not in self._clients:
            self._clients[server.port] = redis.Redis(port=server.port, socket_timeout=5)
        return self._clients[server.port]

    def ask(self, server: EmbeddedServer, *command: Any) -> Any:
        return self.client(server).execute_command(*command)

    def info(self, server: EmbeddedServer) -> dict[str, str]:
        text = self.ask(server, "CLUSTER", "INFO")
        if isinstance(text, dict):
            return {name: str(value) for name, value in text.items()}
        return dict(line.split(":", 1) for line in bytes(text).decode().split("\r\n") if ":" in line)

    def id_of(self, server: EmbeddedServer) -> str:
        found = self.ask(server, "CLUSTER", "MYID")
        return found.decode() if isinstance(found, bytes) else str(found)

    @property
    def alive(self) -> list[EmbeddedServer]:
        return [server for server in self.servers if server.alive]

    def is_master(self, server: EmbeddedServer) -> bool:
        return self.ask(server, "ROLE")[0] in (b"master", "master")

    def owner(self, slot: int) -> EmbeddedServer:
        """The node that serves the slot, as all that live agree."""
        found: list[EmbeddedServer] = []

        def agree() -> bool:
            ports = {port for server in self.alive for port in self._port_of(server, slot)}
            found[:] = [server for server in self.alive if {server.port} == ports]
            return bool(found)

        self.until(agree)
        return found[0]

    def _port_of(self, server: EmbeddedServer, slot: int) -> Iterator[int]:
        with redis.Redis(port=server.port, socket_timeout=5) as client:
            client.response_callbacks.clear()
            for first, last, master, *_ in client.execute_command("CLUSTER", "SLOTS"):
                if first <= slot <= last:
                    yield int(master[1])

    def flush(self) -> None:
        """Nothing is stored; what a test that failed has left half-way is mended."""
        if dead := [server for server in self.servers if not server.alive]:
            for server in dead:
                server.start()
            self.settle()
        self.hold_failovers(is_held=False)
        for slot, server in self._open:
            self.ask(server, "CLUSTER", "SETSLOT", slot, "STABLE")
        self._open.clear()
        for server in self.servers:
            if self.is_master(server):
                self.client(server).flushall()

    def settle(self) -> None:
        """Return when all nodes live, all slots are served, and each replica has what its master has."""

        def is_whole() -> bool:
            for server in self.servers:
                with contextlib.suppress(redis.ConnectionError, redis.BusyLoadingError):
                    if self.info(server)["cluster_state"] != "ok":
                        return False
                    replication = self.client(server).info("replication")
                    if replication["role"] == "slave" and replication["master_link_status"] != "up":
                        return False
                    if replication["role"] == "master" and replication["connected_slaves"] != 1:
                        return False
                    continue
                return False
            return True

        self.until(is_whole)

    def hold_failovers(self, *, is_held: bool = True) -> None:
        """No replica takes over until they may again: a test is in no hurry while a master is away."""
        for server in self.alive:
            self.ask(server, "CONFIG", "SET", "cluster-replica-no-failover", "yes" if is_held else "no")

    def begin_migration(self, slot: int, to: EmbeddedServer) -> EmbeddedServer:
        """From here on the slot's keys may be at either node; the one that has them."""
        source = self.owner(slot)
        self._open = [(slot, source), (slot, to)]
        self.ask(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(to))
        return source

    def move_keys(self, slot: int, source: EmbeddedServer, to: EmbeddedServer, at_once: int = 10) -> Iterator[int]:
        """Move the slot's keys, so many in each step."""
        while keys := self.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, at_once):
            self.ask(source, "MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "REPLACE", "KEYS", *keys)
            yield len(keys)

    def end_migration(self, slot: int, source: EmbeddedServer, to: EmbeddedServer) -> None:
        """The new owner first: were the old one told first, nobody would serve the slot for a moment."""
        owner = self.id_of(to)
        for server in (to, source, *(each for each in self.alive if each not in (to, source) and self.is_master(each))):
            self.ask(server, "CLUSTER", "SETSLOT", slot, "NODE", owner)
        self._open.clear()

    def migrate(self, slot: int, to: EmbeddedServer) -> None:
        """Move a slot with all that is in it, while others use it."""
        source = self.begin_migration(slot, to)
        for _ in self.move_keys(slot, source, to):
            pass
        self.end_migration(slot, source, to)

    def until(self, condition: Callable[[], Any]) -> Any:
        """Ask again and again until the answer is true: nodes announce nothing."""
        deadline = time.monotonic() + PATIENCE_S
        while not (answer := condition()):
            assert time.monotonic() < deadline, "the cluster did not get there"
            time.sleep(0.02)
        return answer


def slot_of(queue: str) -> int:
    """The slot of a queue's keys."""
    return key_slot(f"rqueue:{{{queue}}}".encode())


def queue_in(first: int, end: int, stem: str = "q") -> str:
    """A queue's name whose slot is in that range."""
    return next(name for number in range(SLOTS) if first <= slot_of(name := f"{stem}{number}") < end)


def queue_at(place: int, stem: str = "q") -> str:
    """A queue's name whose slot is at first the master's of that place."""
    return queue_in(place * SLOTS // MASTERS, (place + 1) * SLOTS // MASTERS, stem)


def _free_ports(count: int) -> list[int]:
    """Ports that are free and whose cluster bus's, 10,000 higher, are free as well and below those of clients."""
    found: set[int] = set()
    while len(found) < count:
        port = 20_000 + secrets.randbelow(2_700)
        with socket.socket() as one, socket.socket() as bus, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + 10_000))
            found.add(port)
    return sorted(found, key=lambda _: os.urandom(4))
