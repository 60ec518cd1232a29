"""A conversation with plain values: no event loop, no socket, no engine."""

from __future__ import annotations

import json
from typing import Any

from notifier.auth.tokens import Identity
from notifier.conversation import Limits, ProtocolPing
from notifier.engine.base import Losses, MailboxState, Notification, Page
from notifier.protocol import AckMode
from notifier.session import Session

NOW = 1_800_000_000.0
EMPTY = MailboxState(0, None, None)


def mail(seq: int, size: int = 1) -> Notification:
    return Notification("alice", seq, f"id-{seq}", b"1" * size, 0, 1_900_000_000_000)


def page(*seqs: int, through: int | None = None, more: bool = False) -> Page:
    return Page([mail(seq) for seq in seqs], max(seqs) if through is None else through, more)


def losses(expired: int = 0, purged: int = 0, told: int = 100) -> Losses:
    totals = {reason: told + n for reason, n in (("expired", expired), ("purged", purged)) if n}
    return Losses(totals, dict.fromkeys(totals, told))  # type: ignore[arg-type]


class Talk:
    """A session, and what it has said so far."""

    def __init__(
        self,
        ack: AckMode = "client",
        state: MailboxState = EMPTY,
        window: int = 4,
        expires_s: float = NOW + 3600,
        started: bool = True,
    ) -> None:
        self.limits = Limits(window, 25, 20, 10)
        self.session = Session("conn-1", Identity("alice", expires_s, NOW, ("g",)), ack, self.limits, 0.0)
        if started:
            self.session.start(state)
            self.greeting = self.said()

    def said(self) -> list[Any]:
        """Frames as objects, mail as its seq, pings as their payload, since the last look; as a carrier would write."""
        self.session.flush_settled()
        out, self.session.out = self.session.out, []
        return [self._plain(item) for item in out]

    @staticmethod
    def _plain(item: Any) -> Any:
        if isinstance(item, Notification):
            return item.seq
        if isinstance(item, ProtocolPing):
            return item.payload
        return json.loads(item)

    def hear(self, frame: Any, now: float = 0.0) -> None:
        self.session.receive(json.dumps(frame).encode() if isinstance(frame, dict) else frame, now)

    def live(self, *seqs: int) -> list[bool]:
        """Wakes, each with the one before it."""
        return [self.session.offer(mail(seq), max(s for s in (0, *seqs) if s < seq)) for seq in seqs]

    def ack(self, seq: int, confirm: bool = False, now: float = 0.0) -> None:
        self.hear({"type": "ack", "seq": seq} | ({"confirm": True} if confirm else {}), now)

    def acknowledged(self) -> tuple[int, str, bool, Any] | None:
        ack, self.session.ack = self.session.ack, None
        return None if ack is None else (ack.seq, ack.acked_by, ack.confirm, ack.told)
