"""TLS: every connection of an app goes through it, with a client's certificate, and what is wrong with one is said.

Against a server that has TLS, where the one that is found has, and everywhere through a proxy that ends it.
"""

import asyncio
import importlib.util
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from rqueue import BrokerUnavailable, RQueue
from rqueue.broker import endpoint
from rqueue.broker.endpoint import Endpoint
from rqueue.broker.pulse import Pulse
from rqueue.cli.process import loop_factory
from rqueue.cli.program import program
from rqueue.config import WorkerConfig
from rqueue.embedded import EmbeddedServer, EmbeddedServerError
from rqueue.supervisor.custody import Custody, introduction

_spec = importlib.util.spec_from_file_location("rqueue_certificates", Path(__file__).parent / "certificates.py")
assert _spec is not None
assert _spec.loader is not None
certificates = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = certificates
_spec.loader.exec_module(certificates)
rediss = certificates.rediss


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    directory = tmp_path_factory.mktemp("pki")
    ours, other = certificates.Authority(directory, "ours"), certificates.Authority(directory, "other")
    return SimpleNamespace(
        ca=ours.file,
        other_ca=other.file,
        server=ours.pair("server"),
        expired_server=ours.pair("expired-server", is_expired=True),
        elsewhere=ours.pair("elsewhere", "redis.example"),
        client=ours.pair("client"),
        expired_client=ours.pair("expired-client", is_expired=True),
        strangers_client=other.pair("strangers-client"),
    )


@pytest.fixture(scope="module")
def proxied(server: EmbeddedServer, pki: SimpleNamespace) -> Iterator[int]:
    with certificates.tls_in_front_of(server.url, pki.server, pki.ca) as port:
        yield port


@pytest.fixture(scope="module")
def real(pki: SimpleNamespace) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {
        "tls-port": str(port),
        "tls-cert-file": str(pki.server.cert),
        "tls-key-file": str(pki.server.key),
        "tls-ca-cert-file": str(pki.ca),
        "tls-auth-clients": "yes",
    }
    try:
        server = EmbeddedServer(options=options).start()
    except EmbeddedServerError as exc:
        if "tls" in str(exc).lower() or "ssl" in str(exc).lower():
            pytest.skip("the server that was found has no TLS")
        raise
    yield port
    server.stop()


@pytest.fixture(params=["proxied", "real"])
def port(request: pytest.FixtureRequest) -> int:
    found: int = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("factory", [None, loop_factory()], ids=["asyncio", "uvloop"])
def test_everything_of_an_app_goes_through_tls(port, pki, factory):
    """Link, blocks, the heart's thread, the listener and the events: and 2 MB through the inbox, in pieces."""
    app = RQueue(rediss(port, pki.ca, pki.client), max_message_bytes=4_000_000)

    @app.task
    async def echo(text: str) -> str:
        return text

    async def use() -> None:
        async with app, app.events() as events, app.worker(lease=0.5) as worker:
            jobs = await app.enqueue_many([echo.s("x" * 2_000_000), echo.s("b"), echo.s("c")])
            assert [len(await job.result(20)) for job in jobs] == [2_000_000, 1, 1]
            async with asyncio.timeout(20):
                seen = [event.job_id async for event, _ in _few(events, 3)]
                assert sorted(seen) == sorted(job.id for job in jobs)
                late = await echo.options(countdown=0.6).enqueue("late")  # the lease is over, had the heart not beaten
                assert await late.result(20) == "late"
                assert worker._lease.age_s < 0.5

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(use())


async def _few(events, count):
    async for event in events:
        yield event, count
        count -= 1
        if not count:
            return


async def test_the_supervisors_hand_and_the_command_line_use_it_too(port, pki):
    url = rediss(port, pki.ca, pki.client)
    app = RQueue(url)
    custody = Custody(introduction(app, WorkerConfig(queues=("default",))), WorkerConfig())
    assert await custody.backlog() == 0
    await custody.close()
    done = await asyncio.to_thread(CliRunner().invoke, program, ["queues", "--url", url])
    assert (done.exit_code, done.exception) == (0, None)


WRONG = {
    "wrong CA": (lambda pki: {"ca": pki.other_ca, "client": pki.client}, "certificate verify failed"),
    "no CA": (lambda pki: {"ca": None, "client": pki.client}, "certificate verify failed"),
    "no client certificate": (lambda pki: {"ca": pki.ca}, "client.s certificate|certificate required"),
    "expired client certificate": (
        lambda pki: {"ca": pki.ca, "client": pki.expired_client},
        "client.s certificate|certificate expired",
    ),
    "a stranger's certificate": (
        lambda pki: {"ca": pki.ca, "client": pki.strangers_client},
        "client.s certificate|unknown ca",
    ),
    "no such file": (
        lambda pki: {"ca": pki.ca.with_name("missing.crt"), "client": pki.client},
        "No such file|could not|cannot",
    ),
}


async def _refusals(url: str, text: str) -> None:
    """The loop's connection, the thread's and the command line say what is wrong, and do so at once."""
    async with asyncio.timeout(10):
        app = RQueue(url, enqueue_timeout=0.2)
        try:
            with pytest.raises(BrokerUnavailable, match=text):
                await app.open()
        finally:
            await app.close()
        with pytest.raises(BrokerUnavailable, match=text):
            await asyncio.to_thread(Pulse(Endpoint(url), 2).renew, [], "w", 1, b"")
        done = await asyncio.to_thread(CliRunner().invoke, program, ["queues", "--url", url])
        assert done.exit_code not in (0, 1), done.output


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
async def test_what_is_wrong_with_a_certificate_is_said_at_once(port, pki, case):
    arguments, text = case
    await _refusals(rediss(port, **arguments(pki)), f"(?i){text}")


@pytest.mark.parametrize(
    ("which", "text"), [("expired_server", "certificate has expired"), ("elsewhere", "(?i)mismatch|not valid for")]
)
async def test_a_server_whose_certificate_is_not_good_is_not_used(server, pki, which, text):
    with certificates.tls_in_front_of(server.url, getattr(pki, which), pki.ca) as port:
        await _refusals(rediss(port, pki.ca, pki.client), text)
        if which == "elsewhere":  # its name can be passed over, if that is said
            app = RQueue(rediss(port, pki.ca, pki.client, ssl_check_hostname="false"))
            await app.open()
            await app.close()


async def test_a_server_without_tls_is_no_hang(server, pki, monkeypatch):
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    monkeypatch.setattr(endpoint, "CONNECT_TIMEOUT_S", 0.3)
    async with asyncio.timeout(10):
        app = RQueue(rediss(port, pki.ca, pki.client))
        with pytest.raises(BrokerUnavailable):
            await app.open()
        await app.close()
