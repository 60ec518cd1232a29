"""/asyncapi.json (AsyncAPI 3.0): the frames of a connection, from the types that codec.py decodes and encodes by."""

from __future__ import annotations

from typing import Any, get_args

from notifier import protocol
from notifier.protocol import ClientFrame, Close, ServerFrame
from notifier.web.schemas import RULES, components

_AT, _END, _SEQ = "2026-11-22T12:00:00.000Z", "2026-11-29T12:00:00.000Z", 1795348737856709

EXAMPLES: dict[type, dict[str, Any]] = {
    protocol.Welcome: {
        "type": "welcome",
        "client_id": "alice",
        "connection_id": "JBsGKseZAbNTbx5m",
        "pending": 3,
        "ack": "auto",
        "max_inflight": 256,
        "heartbeat_s": 25,
        "token_expires_at": _END,
    },
    protocol.NotificationFrame: {
        "type": "notification",
        "id": "inv-17",
        "seq": _SEQ,
        "event": "invoice.paid",
        "collapse_key": "inv",
        "data": {"text": "Invoice paid"},
        "accepted_at": _AT,
        "expires_at": _END,
    },
    protocol.Settled: {"type": "settled", "seq": _SEQ},
    protocol.Gap: {"type": "gap", "reason": "expired", "dropped": 2},
    protocol.TokenExpiring: {"type": "token_expiring", "in_s": 30},
    protocol.Authenticated: {"type": "authenticated", "token_expires_at": _END},
    protocol.Reconnect: {"type": "reconnect", "after_ms": 420},
    protocol.Pong: {"type": "pong"},
    protocol.ErrorFrame: {"type": "error", "code": "window_full", "message": "256 notifications are unacknowledged."},
    protocol.Ack: {"type": "ack", "seq": _SEQ, "confirm": True},
    protocol.Auth: {"type": "auth", "token": "eyJhbGciOiJIUzI1NiJ9…"},
    protocol.Ping: {"type": "ping"},
}


def server_frames() -> list[type]:
    """Every frame that this server sends."""
    return ServerFrame.__subclasses__()


def client_frames() -> list[type]:
    """Every frame that a client may send."""
    return list(get_args(ClientFrame))


def _name(frame: type) -> str:
    return str(frame.__struct_config__.tag)  # type: ignore[attr-defined]


def document(version: str) -> dict[str, Any]:
    """The whole document."""
    says, hears = server_frames(), client_frames()
    prefix = "#/components/"
    messages = {_name(frame): _message(frame) for frame in (*says, *hears)}
    socket = {name: {"$ref": f"{prefix}messages/{name}"} for name in messages}
    stream = {_name(frame): {"$ref": f"{prefix}messages/{_name(frame)}"} for frame in says}
    schemas = components([*says, *hears], prefix + "schemas/")
    schemas["NotificationFrame"]["properties"]["event"] |= RULES["event"]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Notifier",
            "version": version,
            "description": "What clients and server say to each other. The rules are in docs/protocol.md.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "this": {
                "host": "localhost:8000",
                "protocol": "ws",
                "security": [{"$ref": f"{prefix}securitySchemes/token"}],
            }
        },
        "channels": {
            "ws": {
                "address": "/ws",
                "title": "WebSocket, subprotocol notifier.v1",
                "description": _closes(),
                "messages": socket,
                "bindings": {"ws": {"method": "GET", "query": _query()}},
            },
            "events": {
                "address": "/events",
                "title": "Server-sent events: notifications under their own event, other frames as `notifier`",
                "messages": stream,
                "bindings": {"http": {}},
            },
        },
        "operations": {
            "hear": _flow("ws", "send", [_name(frame) for frame in says], "What a client hears on its WebSocket"),
            "say": _flow("ws", "receive", [_name(frame) for frame in hears], "What a client may say on it"),
            "hearEvents": _flow("events", "send", [_name(frame) for frame in says], "What a client hears as events"),
        },
        "components": {
            "messages": messages,
            "schemas": schemas,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "Or the subprotocol `bearer.JWT` beside `notifier.v1`, as browsers must.",
                }
            },
        },
    }


def _message(frame: type) -> dict[str, Any]:
    return {
        "name": _name(frame),
        "summary": (frame.__doc__ or "").strip(),
        "payload": {"$ref": f"#/components/schemas/{frame.__name__}"},
        "examples": [{"payload": EXAMPLES[frame]}],
    }


def _flow(channel: str, action: str, names: list[str], summary: str) -> dict[str, Any]:
    return {
        "action": action,
        "summary": summary,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names],
    }


def _query() -> dict[str, Any]:
    return {"type": "object", "properties": {"ack": {"type": "string", "enum": ["auto", "client"], "default": "auto"}}}


def _closes() -> str:
    codes = ", ".join(f"{code.value} {code.name.lower().replace('_', ' ')}" for code in Close)
    return f"Close codes: {codes}. What each asks of the client: docs/protocol.md."
