"""One client's conversation, without I/O: frames, pongs, mail and time go in; frames, an acknowledgement and a close
come out. Every rule of docs/protocol.md that concerns a connection alone is in this file.

    what goes in            what it may change
    ──────────────────────  ─────────────────────────────────────────────────────────
    start                   welcome, gap; then mail is wanted
    offer (a live wake)     the notification, if the session is level with its mailbox
    mail (a page read)      notifications; level, or more is wanted
    receive: ack            window opens; the acknowledgement to commit
    receive: auth           a token to verify → reauthenticated | auth_failed
    receive_pong            like ack, in `ack=auto`; or a heartbeat's answer
    settled, ended          window opens; settled, gap
    tick (time)             ping, token_expiring, window_full; or the end
    drain                   reconnect, close 1012

A session is *level* when everything in its mailbox up to `seen` was written on this connection or has ended. Only then
may a wake carry mail past the mailbox; otherwise it only says that there is something to read. So live delivery and
replay are one path, and a wake may be lost, doubled or late.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from notifier import codec, conversation, protocol
from notifier.auth.tokens import Identity
from notifier.conversation import Acknowledgement, Bucket, Limits, Out, ProtocolPing
from notifier.engine.base import AckedBy, Losses, LossReason, MailboxState, Notification, Page
from notifier.errors import BadJson, NotifierError
from notifier.proofs import Proofs
from notifier.protocol import AckMode, Close


class Session:
    """See the module. `now` is always the monotonic clock, `now_s` unix time; both in seconds."""

    __slots__ = (
        "_bucket", "_floor", "_full_since", "_heartbeat", "_inflight", "_out_size", "_proofs", "_warned", "ack",
        "ack_mode", "acked", "behind", "client_id", "closing", "connection_id", "filled", "heard_at", "identity",
        "ignored_acks", "limits", "others_settled", "out", "paused", "position", "reading", "seen", "verify",
    )  # fmt: skip

    def __init__(self, connection_id: str, identity: Identity, ack_mode: AckMode, limits: Limits, now: float) -> None:
        self.connection_id = connection_id
        self.identity = identity
        self.client_id = identity.client_id
        self.ack_mode: AckMode = ack_mode
        self.limits = limits
        self.position = 0
        """Highest seq written on this connection."""
        self.seen = 0
        """All up to here was written, or has ended."""
        self.acked = 0
        """Highest seq that this connection has acknowledged itself."""
        self.behind = True
        """The mailbox holds mail that this session has not seen, as far as it knows."""
        self.reading = False
        """A page is under way."""
        self.paused = False
        """The carrier has more than 256 KiB unsent; it sets and clears this."""
        self.heard_at = now
        self.out: list[Out] = []
        self.ack: Acknowledgement | None = None
        self.verify: list[str] | None = None
        """Tokens of `auth` frames, to be looked at in their order."""
        self.closing: tuple[int, str] | None = None
        self.filled = False
        """The window has just become full: the carrier notes the time and looks again after WINDOW_FULL_S."""
        self.ignored_acks = 0
        self._floor = 0
        """Up to here others have settled: what ends below was on its way out already."""
        self._inflight: list[int] | None = None
        self._proofs: Proofs | None = None
        self._heartbeat = 0.0
        self.others_settled = 0
        """The highest seq that others have settled and that was not said yet; see `flush_settled`."""
        self._warned = False
        self._full_since = 0.0
        self._out_size = 0
        self._bucket = Bucket(now)

    @property
    def inflight(self) -> int:
        """Notifications written on this connection and not settled."""
        return len(self._inflight) if self._inflight else 0

    @property
    def window_full(self) -> bool:
        """Nothing more is written until some are settled."""
        return self.inflight >= self.limits.max_inflight

    @property
    def wants(self) -> int:
        """How many notifications a page may bring now; 0 if none is wanted."""
        if not self.behind or self.reading or self.paused or self.closing is not None:
            return 0
        return self.limits.max_inflight - self.inflight

    @property
    def ready(self) -> bool:
        """Whether live mail can be taken at once, if `out` has room for it."""
        held = self.behind or self.reading or self.paused or self.closing is not None
        return not held and self.inflight < self.limits.max_inflight

    @property
    def told(self) -> tuple[int, dict[LossReason, int]] | None:
        """See Proofs.told."""
        return self._proofs.told if self._proofs is not None else None

    # -- mail ---------------------------------------------------------------------------------------------------------

    def resume(self, seq: int) -> None:
        """Everything up to `seq` was written on an earlier connection, and is settled."""
        self.position = self.seen = self.acked = seq

    def start(self, state: MailboxState) -> None:
        """The mailbox has been looked at: say welcome, and what was lost."""
        limits, until = self.limits, codec.rfc3339(int(self.identity.expires_at * 1000))
        self._say(protocol.Welcome(
            self.client_id, self.connection_id, state.pending, self.ack_mode, limits.max_inflight, limits.heartbeat_s,
            until,
        ))  # fmt: skip
        self.behind = state.pending > 0
        self.seen = max(self.seen, state.through)
        if state.losses is not None:
            self._proofs = Proofs()
            self._proofs.tell_untold(state.losses, self.position, self.out)

    def offer(self, notification: Notification, after: int) -> bool:
        """A wake with mail. Whether it was taken; if not, it will be read from the mailbox."""
        if notification.seq <= self.seen:
            return False  # doubled
        if after > self.seen or not self.ready or not self._write(notification):
            self.behind = True  # one before it was missed, or it cannot be written now
            return False
        self.seen = notification.seq
        if self.ack_mode == "auto":
            self._prove()
        return True

    def mail(self, page: Page) -> Sequence[Notification]:
        """A page that was asked for has come. Returns what of it was written; the rest will be read again."""
        self.reading = False
        written: list[Notification] = []
        if self.closing is not None:
            return written
        for notification in page.notifications:
            if notification.seq > self.position:
                if self.paused or not self._write(notification):  # what others say has filled the line meanwhile
                    break
                written.append(notification)
        else:
            self.seen = max(self.seen, page.through)
            self.behind = page.more
        self.seen = max(self.seen, self.position)
        if written and self.ack_mode == "auto":
            self._prove()
        return written

    def _write(self, notification: Notification) -> bool:
        """Put it into `out` if there is room (see MAX_OUT); whether there was."""
        size = len(codec.notification_frame(notification)) + conversation.AROUND
        held = self._out_size if self.out else 0  # else the carrier has taken all
        if held + min(size, conversation.MAX_OUT // 2) > conversation.MAX_OUT:
            return False
        self._out_size = held + size
        self.out.append(notification)
        self.position = seq = notification.seq
        inflight = self._inflight
        if inflight is None:
            inflight = self._inflight = []
        inflight.append(seq)
        if len(inflight) == self.limits.max_inflight:
            self.filled = True
            self.limits.full += 1
        return True

    def _prove(self) -> None:
        """`ack=auto`: a ping that follows the mail; its pong proves that the other end has read so far."""
        proofs = self._proofs = self._proofs or Proofs()
        self.out.append(ProtocolPing(proofs.ping(self.position)))

    def transient(self, frame: bytes, unsent: int = 0) -> bool:
        """A `ttl: 0` frame: taken if it can be written now. `unsent`: bytes that the carrier still holds."""
        held = self._out_size if self.out else 0
        if self.paused or held + unsent >= conversation.MAX_OUT or self.closing is not None:
            return False
        self._out_size = held + len(frame) + conversation.AROUND
        self.out.append(frame)
        return True

    def settled(self, seq: int) -> bool:
        """Some connection's acknowledgement up to `seq` is durable. `flush_settled` says so, the highest per tick.

        Returns whether that changes anything here.
        """
        reopened = self._shrink(seq)
        self.seen = max(self.seen, seq)
        self._floor = max(self._floor, seq)
        if seq > self.acked and seq > self.others_settled:
            self.others_settled = seq
            return True
        return reopened

    def confirm(self, seq: int) -> None:
        """The acknowledgement that this session asked to have confirmed is durable."""
        if self.closing is None:
            self._say(protocol.Settled(seq))

    def flush_settled(self) -> None:
        """Say the highest seq that others have settled since the last tick."""
        if self.others_settled and self.closing is None:
            self._say(protocol.Settled(self.others_settled))
        self.others_settled = 0

    def ended(self, seqs: Sequence[int], reason: LossReason | None, losses: Losses | None) -> None:
        """Mail has left the mailbox unacknowledged; a loss is told if it concerns mail not written here."""
        unwritten = len(seqs) - bisect_right(seqs, max(self._floor, self.acked))
        if self._inflight:
            gone = set(seqs)
            left = [seq for seq in self._inflight if seq not in gone]
            unwritten -= len(self._inflight) - len(left)
            full, self._inflight = self.window_full, left
            self._reopen(full)
        if not unwritten:
            return
        if seqs[-1] > self.seen:
            self.behind = True  # a look at the mailbox moves `seen` past it, whenever its wake comes
        if reason is None or losses is None or self.closing is not None:
            return
        proofs = self._proofs = self._proofs or Proofs()
        proofs.tell(reason, unwritten, losses.totals[reason], self.position, self.out)

    def _shrink(self, seq: int) -> bool:
        """Everything up to `seq` leaves the window. Whether anything did."""
        inflight = self._inflight
        if not inflight or inflight[0] > seq:
            return False
        full = self.window_full
        if inflight[-1] <= seq:
            inflight.clear()  # the list stays: the next one needs it
        else:
            del inflight[: bisect_right(inflight, seq)]
        self._reopen(full)
        return True

    def _reopen(self, full: bool) -> None:
        """Some have left the window, which was `full` before."""
        if full and not self.window_full:
            self.limits.full -= 1
            self._full_since = 0.0

    # -- what the client says -----------------------------------------------------------------------------------------

    def receive(self, payload: bytes, now: float) -> None:
        """One text message, valid UTF-8."""
        if seq := codec.plain_ack(payload):
            return self._receive_ack(seq, False, now)
        try:
            frame = codec.decode(payload)
        except BadJson as error:
            self._say(protocol.ErrorFrame("bad_frame", error.detail))
            return self.close(Close.BAD_FRAME, "bad_frame")
        if type(frame) is protocol.Ack:
            return self._receive_ack(frame.seq, frame.confirm, now)
        if self.spend(now):
            if type(frame) is protocol.Ping:
                self._say(protocol.Pong())
            elif type(frame) is protocol.Auth:
                self.verify = self.verify or []
                self.verify.append(frame.token)
                if len(self.verify) > conversation.MAX_TOKENS:
                    self.close(Close.RATE_LIMITED, "rate_limited")
        return None

    def _receive_ack(self, seq: int, confirm: bool, now: float) -> None:
        if seq > self.acked and seq <= self.position:
            self.acked = seq
            self._shrink(seq)
            self._acknowledge(seq, "client", confirm)
            if self._proofs is not None:
                self._proofs.acknowledged(seq)
        elif self.spend(now):  # one that advances is free
            if seq > self.position:
                self.ignored_acks += 1  # of an earlier connection, perhaps: it settles nothing, but somebody has heard
            if confirm and seq <= self.position:
                self._acknowledge(seq, "client", True)
            elif self._proofs is not None and self._proofs.heard(min(seq, self.acked)):
                self._acknowledge(self.acked, "client", False)

    def receive_pong(self, payload: bytes, now: float) -> None:
        """A pong: the proof of a ping of ours, cumulatively; or one that nobody asked for (RFC 6455 §5.5.3)."""
        proofs = self._proofs
        position = -1 if proofs is None else proofs.pong(payload)
        if proofs is not None and position >= 0:
            if self.ack_mode == "auto" and (position > self.acked or proofs.heard(position)):
                self.acked = max(self.acked, position)
                self._shrink(position)
                self._acknowledge(position, "transport", False)
        elif payload == b"heartbeat" and self._heartbeat:
            self._heartbeat = 0.0
        else:
            self.spend(now)

    def _acknowledge(self, seq: int, acked_by: AckedBy, confirm: bool) -> None:
        proofs = self._proofs
        told = proofs.acknowledge_told() if proofs is not None and proofs.heard(seq) else None
        if self.ack is not None:  # two in one packet: the later says it all
            seq, confirm, told = max(seq, self.ack.seq), confirm or self.ack.confirm, told or self.ack.told
        self.ack = Acknowledgement(seq, acked_by, confirm, told)

    def reauthenticated(self, identity: Identity) -> None:
        """The token of `auth` is good: it replaces the session's."""
        if identity.client_id != self.client_id:
            return self.close(Close.FORBIDDEN, "client_id_mismatch")
        self.identity = identity
        self._warned = False
        return self._say(protocol.Authenticated(codec.rfc3339(int(identity.expires_at * 1000))))

    def auth_failed(self, error: NotifierError) -> None:
        """The token of `auth` is not good: the session goes on until its present token ends."""
        if error.close_code == Close.FORBIDDEN:
            self.close(error.close_code, error.reason)
        else:
            self._say(protocol.ErrorFrame("token_invalid", error.detail))

    def spend(self, now: float, count: int = 1) -> bool:
        """Take tokens from the bucket; an empty one ends the session (4429)."""
        if self._bucket.take(now, count):
            return True
        self.close(Close.RATE_LIMITED, "rate_limited")
        return False

    # -- time ---------------------------------------------------------------------------------------------------------

    def tick(self, now: float, now_s: float, unsent: int) -> float:
        """Do what is due; in how many seconds to call again."""
        left = self.identity.expires_at + self.limits.leeway_s - now_s
        if left <= 0:
            self.close(Close.UNAUTHORIZED, "token_expired")
            return 0.0
        warning = self.identity.expires_at - conversation.TOKEN_WARNING_S - now_s
        if not self._warned and warning <= 0:
            self._warned = True
            self._say(protocol.TokenExpiring(max(0, round(self.identity.expires_at - now_s))))
        self._tick_window(now)
        due = left if self._warned else min(left, warning)
        return min(due, self._tick_heartbeat(now, unsent))

    def note_filled(self, now: float) -> None:
        """The carrier has seen `filled`."""
        self.filled = False
        self._full_since = now

    def _tick_window(self, now: float) -> None:
        if self._full_since and self.window_full and now - self._full_since >= conversation.WINDOW_FULL_S:
            self._full_since = 0.0  # said once per filling
            text = f"{self.inflight} notifications are unacknowledged. Send ack frames; no more comes until then."
            self._say(protocol.ErrorFrame("window_full", text))

    def _tick_heartbeat(self, now: float, unsent: int) -> float:
        limits = self.limits
        silent = now - self.heard_at
        if self._heartbeat and self.heard_at >= self._heartbeat:
            self._heartbeat = 0.0
        if self._heartbeat:
            waited = now - self._heartbeat
            if waited >= limits.heartbeat_timeout_s and not unsent:
                self.close(0, "no_answer")  # nobody is there to read a close frame
            # It may have been answered by the next look, so that one is not later than the next ping would be due.
            return max(0.1, min(limits.heartbeat_timeout_s - waited, limits.heartbeat_s))
        if silent >= limits.heartbeat_s:
            self._heartbeat = now
            self.out.append(ProtocolPing(b"heartbeat"))
            return min(limits.heartbeat_timeout_s, limits.heartbeat_s)
        return limits.heartbeat_s - silent

    def drain(self, after_ms: int) -> None:
        """This node goes away: where to the client should come back, and when."""
        if self.closing is None:
            self._say(protocol.Reconnect(after_ms))
            self.close(Close.RESTART, "draining")

    def close(self, code: int, reason: str) -> None:
        """End it; the first reason counts. Code 0: abort, without a close frame."""
        if self.closing is None:
            self.closing = (code, reason)

    def release(self) -> None:
        """The connection is gone."""
        full, self._inflight = self.window_full, None
        self._reopen(full)
        self.close(0, "")

    def _say(self, frame: protocol.ServerFrame) -> None:
        self.out.append(codec.encode(frame))
