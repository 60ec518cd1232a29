"""python-socketio on uvicorn, with a room per client; publishers come through a bare ASGI application (the fastest)."""

# mypy: disable-error-code="import-not-found, untyped-decorator"
import json
import os
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import jwt
import socketio

JWT_SECRET = os.environ["BENCH_JWT_SECRET"]
API_KEY = os.environ["BENCH_API_KEY"].encode()
Message = dict[str, Any]

sio = socketio.AsyncServer(async_mode="asgi", transports=["websocket"], logger=False, engineio_logger=False)


@sio.event
async def connect(sid: str, environ: dict[str, Any], auth: dict[str, str]) -> None:
    try:
        claims = jwt.decode(auth["token"], JWT_SECRET, algorithms=["HS256"], options={"require": ["exp", "sub"]})
    except jwt.InvalidTokenError as error:
        raise socketio.exceptions.ConnectionRefusedError("token") from error
    await sio.enter_room(sid, claims["sub"])


async def read_body(receive: Callable[[], Awaitable[Message]]) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def route(path: str, headers: dict[bytes, bytes], body: bytes) -> tuple[int, bytes]:
    if path == "/healthz":
        return 200, b'{"status":"ok"}'
    if not secrets.compare_digest(headers.get(b"x-api-key", b""), API_KEY):
        return 401, b'{"error":"unauthorized"}'
    fields = json.loads(body)
    if path == "/notify":
        await sio.emit("notification", fields["data"], room=fields["client_id"])
    elif path == "/broadcast":
        await sio.emit("notification", fields["data"])
    else:
        return 404, b'{"error":"not found"}'
    return 202, b'{"status":"sent"}'


async def publishers(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    status, answer = await route(scope["path"], dict(scope["headers"]), await read_body(receive))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


app = socketio.ASGIApp(sio, other_asgi_app=publishers)
