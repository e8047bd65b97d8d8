"""Certificates that a test makes for itself, and a proxy that ends TLS in front of a server that has none."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


@dataclass
class Pair:
    """A certificate and its key, as files."""

    cert: Path
    key: Path


class Authority:
    """Signs certificates, which are put into a directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self._name = directory, _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._cert = self._sign(self._name, self._key, [], is_ca=True)
        self.file = directory / f"{name}.crt"
        self.file.write_bytes(self._cert.public_bytes(serialization.Encoding.PEM))

    def pair(self, name: str, host: str = "127.0.0.1", *, is_expired: bool = False) -> Pair:
        """A new certificate for a host, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        with suppress(ValueError):
            names: list[x509.GeneralName] = [x509.IPAddress(ip_address(host))]
        if not host[0].isdigit():
            names = [x509.DNSName(host)]
        cert = self._sign(_name(name), key, names, is_expired=is_expired)
        found = Pair(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        found.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        found.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return found

    def _sign(self, name, key, names, *, is_ca=False, is_expired=False):  # type: ignore[no-untyped-def]
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 3 * DAY)
            .not_valid_after(now - DAY if is_expired else now + DAY)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if is_ca:
            usage = dict.fromkeys(
                ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
            )
            builder = builder.add_extension(
                x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, decipher_only=False, **usage),
                critical=True,
            )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def rediss(port: int, ca: Path | None, client: Pair | None = None, **more: str) -> str:
    """The URL with the options that redis-py takes."""
    options = {} if ca is None else {"ssl_ca_certs": str(ca)}
    if client is not None:
        options |= {"ssl_certfile": str(client.cert), "ssl_keyfile": str(client.key)}
    return f"rediss://127.0.0.1:{port}/0?{urlencode(options | more)}"


@contextmanager
def tls_in_front_of(url: str, server: Pair, client_ca: Path) -> Iterator[int]:
    """A port where TLS is ended, with a client's certificate demanded, before a server; in a thread of its own."""
    parts = urlsplit(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.cert, server.key)
    context.load_verify_locations(client_ca)
    context.verify_mode = ssl.CERT_REQUIRED
    loop, port, is_up, stop = asyncio.new_event_loop(), 0, threading.Event(), asyncio.Event()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection(parts.hostname, parts.port)
        await asyncio.gather(copy(reader, behind[1]), copy(behind[0], writer))

    async def serve() -> None:
        nonlocal port
        server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        is_up.set()
        await stop.wait()
        server.close()
        passing = asyncio.all_tasks() - {asyncio.current_task()}
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)
        await asyncio.sleep(0.01)  # the transports' own last words

    def run() -> None:
        loop.set_exception_handler(lambda *_: None)  # refused handshakes are what the tests are about
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, name="tls proxy", daemon=True)
    thread.start()
    assert is_up.wait(10)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
