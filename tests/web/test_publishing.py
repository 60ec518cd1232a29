"""Who waits for an end, and the node drains."""

from __future__ import annotations

import asyncio
from pathlib import Path

from notifier.app import Parts
from notifier.settings import load_settings
from notifier.web.publication import TtlLimits, decode_notify
from notifier.web.publishing import Reply, ReplyTo


class Publisher(ReplyTo):
    def __init__(self) -> None:
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def take(self, reply: Reply, at: int) -> None:
        self.reply.set_result(reply)


async def test_who_is_on_the_way_to_the_disk_when_the_node_drains_does_not_wait(tmp_path: Path) -> None:
    """Nobody would tell him any more: his connection would end without an answer."""
    parts = Parts(load_settings({
        "NOTIFIER_JWT_SECRET": "drain" * 8, "NOTIFIER_API_KEYS": "shop:a-key-of-24-characters-00:notify",
        "NOTIFIER_ENGINE": f"sqlite:///{tmp_path}/notifier.db", "NOTIFIER_MIN_FREE_DISK_BYTES": "0",
    }))  # fmt: skip
    await parts.node.start()
    try:
        publisher = Publisher()
        publication = decode_notify(b'{"client_id":"alice","data":1}', TtlLimits(60, 60), None, wait=True)
        parts.publishing.run(publication, parts.publishing.arrived(0.0), 30, publisher)
        assert not publisher.reply.done(), "it is not stored yet"
        parts.publishing.answer_waiting()
        async with asyncio.timeout(10):
            reply = await publisher.reply
        assert (reply.status, reply.body.status) == (202, "queued")
    finally:
        parts.door.wheel.stop()
        await parts.node.stop()
