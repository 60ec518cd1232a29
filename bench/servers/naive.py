"""The service that one writes in an afternoon: a FastAPI route, a FastAPI WebSocket, a dictionary.

It checks what has to be checked (the API key of publishers, the JWT of clients) and stores nothing: who is not
connected misses the notification. It runs on uvloop and httptools, without access log; nothing here makes it slow.
"""

import os
import secrets
from typing import Annotated, Any

import jwt
from fastapi import (
    Depends,
    FastAPI,
    HTTPException,
    Security,
    WebSocket,
    WebSocketDisconnect,
    WebSocketException,
    status,
)
from fastapi.security import APIKeyHeader
from pydantic import BaseModel

JWT_SECRET = os.environ["BENCH_JWT_SECRET"]
API_KEY = os.environ["BENCH_API_KEY"]

app = FastAPI()
api_key_header = APIKeyHeader(name="X-API-Key")
connections: dict[str, WebSocket] = {}


class Notification(BaseModel):
    client_id: str
    data: Any


class Broadcast(BaseModel):
    data: Any


async def check_api_key(api_key: Annotated[str, Security(api_key_header)]) -> None:
    if not secrets.compare_digest(api_key, API_KEY):
        raise HTTPException(status.HTTP_401_UNAUTHORIZED)


def client_of(websocket: WebSocket) -> str:
    token = websocket.headers.get("authorization", "").removeprefix("Bearer ")
    try:
        claims = jwt.decode(token, JWT_SECRET, algorithms=["HS256"], options={"require": ["exp", "sub"]})
    except jwt.InvalidTokenError:
        raise WebSocketException(status.WS_1008_POLICY_VIOLATION) from None
    return str(claims["sub"])


@app.get("/healthz")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/notify", status_code=status.HTTP_202_ACCEPTED, dependencies=[Depends(check_api_key)])
async def notify(notification: Notification) -> dict[str, str]:
    websocket = connections.get(notification.client_id)
    if websocket is None:
        return {"status": "dropped"}
    await websocket.send_json({"type": "notification", "data": notification.data})
    return {"status": "sent"}


@app.post("/broadcast", status_code=status.HTTP_202_ACCEPTED, dependencies=[Depends(check_api_key)])
async def broadcast(broadcast: Broadcast) -> dict[str, int]:
    for websocket in list(connections.values()):
        await websocket.send_json({"type": "notification", "data": broadcast.data})
    return {"connections": len(connections)}


@app.websocket("/ws")
async def receive(websocket: WebSocket, client_id: Annotated[str, Depends(client_of)]) -> None:
    await websocket.accept()
    connections[client_id] = websocket
    try:
        while True:
            await websocket.receive_text()
    except WebSocketDisconnect:
        if connections.get(client_id) is websocket:
            del connections[client_id]
