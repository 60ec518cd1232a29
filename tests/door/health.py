"""Whatever happened: no traceback in the log, no answer of 500, and mail is delivered."""

from __future__ import annotations

import os

from tests.door.raw import Raw
from tests.harness import Server, publish


def unharmed(server: Server) -> None:
    """The server works, and has nothing to hide."""
    log = server.log
    for word in (
        "Traceback",
        '"defect"',
        "callback_failed",
        "listener_failed",
        "never retrieved",
        "Exception in",
        "Fatal error",
    ):
        assert word not in log, log[-4000:]
    delivers(server)


def delivers(server: Server) -> None:
    """A notification for a new client is stored, delivered, and settled."""
    client_id = f"witness-{os.urandom(6).hex()}"
    with Raw(server).upgrade(server, client_id, query="ack=client") as client:
        client.next("welcome")
        answer = publish(server, client_id=client_id, data={"still": "here"})
        assert answer.status == 202, answer
        frame = client.next("notification")
        assert frame["data"] == {"still": "here"}
        client.say({"type": "ack", "seq": frame["seq"], "confirm": True})
        assert client.next("settled")["seq"] == frame["seq"]
