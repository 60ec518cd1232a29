"""An issuer of tokens: a real HTTPS server on loopback that serves its keys, well or badly."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

import trustme
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from tests.auth.forging import GOOD, sign

AUTHORITY = trustme.CA()


def trust_authority(path: Path, set_variable: Callable[[str, str], None]) -> None:
    """Make this process trust the issuer's certificate, as an operator would."""
    AUTHORITY.cert_pem.write_to_path(path)
    set_variable("SSL_CERT_FILE", str(path))


class SigningKey:
    """A key pair with its name."""

    def __init__(self, kid: str | None) -> None:
        self.kid = kid
        self._private = ec.generate_private_key(ec.SECP256R1())

    def jwk(self) -> dict[str, Any]:
        written: dict[str, Any] = ECAlgorithm.to_jwk(self._private.public_key(), as_dict=True)
        return written if self.kid is None else written | {"kid": self.kid, "use": "sig"}

    def token(self, *, kid: object = ..., **claims: object) -> str:
        header = {"alg": "ES256"} if self.kid is None else {"alg": "ES256", "kid": self.kid}
        if kid is None:
            del header["kid"]
        elif kid is not ...:
            header["kid"] = str(kid)
        return sign(header, GOOD | claims, self._private, "ES256")


def response(body: object, status: str = "200 OK", *headers: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", "Connection: close", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + content


class Issuer:
    """`answer` is what the next requests get; `requests` counts them; a request waits while `gate` is closed."""

    def __init__(self) -> None:
        self.answer = b""
        self.requests = 0
        self.heads: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._asked = asyncio.Condition()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        AUTHORITY.issue_cert("127.0.0.1").configure_cert(self._context)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/jwks.json"

    def publish(self, *keys: SigningKey | dict[str, Any]) -> None:
        self.answer = response({"keys": [key.jwk() if isinstance(key, SigningKey) else key for key in keys]})

    async def up(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def down(self) -> None:
        if self._server is not None:
            self.gate.set()
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def asked(self, times: int) -> None:
        """Wait until so many requests have arrived in all."""
        async with self._asked:
            await self._asked.wait_for(lambda: self.requests >= times)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        except asyncio.CancelledError:  # the test is over; asyncio 3.11 reports a handler that ends so as a defect
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            async with self._asked:
                self.requests += 1
                self._asked.notify_all()
            await self.gate.wait()
            writer.write(self.answer)
            await writer.drain()
        writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


@asynccontextmanager
async def issuer() -> AsyncIterator[Issuer]:
    running = Issuer()
    await running.up()
    try:
        yield running
    finally:
        await running.down()
