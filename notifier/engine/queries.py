"""The SQL of the writer thread that is not in schema.sql. A sentence over each."""

from bisect import bisect_left
from typing import Final

# What nearly every turn does, as rows of one INSERT into a view whose triggers do it: the whole commit, fsync included,
# is one step of SQLite. Python's lock is given back and taken again around every step, so with a statement per table
# the writer thread queued for that lock a dozen times per commit, behind a busy event loop (docs/performance.md).
# Rows are bound as they are; taking them out of one JSON text costs SQLite three times as much. Python's lock is held
# while they are, so what SQLite can tell itself is not among them. ({dedup_ms}: how long an id is remembered.)
TURN: Final = """
CREATE TEMP VIEW turn AS SELECT NULL AS what, NULL AS seq, NULL AS client_id, NULL AS expires_ms, NULL AS flags,
    NULL AS collapse_key, NULL AS id, NULL AS event, NULL AS accepted_ms, NULL AS crc, NULL AS data, NULL AS digest;

-- New mail, and what is remembered of its id. (A remembered row in the way has left its window: the writer has looked.)
CREATE TEMP TRIGGER turn_put INSTEAD OF INSERT ON turn WHEN NEW.what = 1 BEGIN
    INSERT INTO mail VALUES (NEW.seq, NEW.client_id, NEW.expires_ms, NEW.flags, octet_length(NEW.data),
        NEW.collapse_key, NEW.id, NEW.event, NEW.accepted_ms, NEW.crc, NEW.data);
    REPLACE INTO dedup VALUES (NEW.id, NEW.client_id, NEW.seq, NEW.digest, NEW.expires_ms,
        NEW.accepted_ms + {dedup_ms}, NULL);
END;

-- The highest seq that was given.
CREATE TEMP TRIGGER turn_last INSTEAD OF INSERT ON turn WHEN NEW.what = 2 BEGIN
    UPDATE meta SET value = NEW.seq WHERE name = 'last_seq';
END;

-- These were acknowledged by the transport: before they go, their ids remember it.
CREATE TEMP TRIGGER turn_proven INSTEAD OF INSERT ON turn WHEN NEW.what = 3 BEGIN
    UPDATE dedup SET state = 'transport' WHERE (id, client_id) IN (
        SELECT id, client_id FROM mail WHERE seq IN (SELECT value FROM json_each(NEW.data)));
END;

-- These were acknowledged.
CREATE TEMP TRIGGER turn_settled INSTEAD OF INSERT ON turn WHEN NEW.what = 4 BEGIN
    DELETE FROM mail WHERE seq IN (SELECT value FROM json_each(NEW.data));
END;
"""
PUT: Final = 1
LAST: Final = 2
PROVEN: Final = 3
SETTLED: Final = 4
TURN_WIDTH: Final = 12
# One statement per number of rows would be prepared again and again: what is missing is filled up with rows of NULLs,
# which no trigger takes. At most 512: apsw keeps no statement of more than 16 KiB prepared.
TURN_SIZES: Final[tuple[int, ...]] = (
    1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 288, 320,
    352, 384, 416, 448, 480, 512,
)  # fmt: skip
_ROW: Final = "(" + ",".join("?" * TURN_WIDTH) + ")"
TURN_ROWS: Final[dict[int, str]] = {size: "INSERT INTO turn VALUES " + ",".join([_ROW] * size) for size in TURN_SIZES}  # noqa: S608 - our own


def turn_rows(count: int) -> int:
    """How many rows are bound for `count`: those of whole statements, and of the smallest that holds the rest."""
    whole = count // TURN_SIZES[-1] * TURN_SIZES[-1]
    return whole + TURN_SIZES[bisect_left(TURN_SIZES, count - whole)] if count > whole else whole


# Out of the mailbox, however that came.
DELETE: Final = "DELETE FROM mail WHERE seq IN (SELECT value FROM json_each(?1))"

# How these ended, where it was not by an acknowledgement of the client; goes before DELETE.
MARK: Final = """
UPDATE dedup SET state = ?2 WHERE (id, client_id) IN (
    SELECT id, client_id FROM mail WHERE seq IN (SELECT value FROM json_each(?1)))
"""

# The end of their receipts, if they have any; the first end stays for ever.
CLOSE: Final = """
UPDATE receipt SET state = ?2, settled_ms = ?3, acked_by = ?4
WHERE seq IN (SELECT value FROM json_each(?1)) AND state = 'pending'
"""

RECEIPT: Final = (
    "REPLACE INTO receipt (id, client_id, seq, state, accepted_ms, until_ms) VALUES (?1, ?2, ?3, 'pending', ?4, ?5)"
)
SENT: Final = "UPDATE receipt SET sent_ms = coalesce(sent_ms, ?2), attempts = attempts + ?3 WHERE seq = ?1"

# [client_id, seq] pairs, noted at ?2.
CURSORS: Final = """
INSERT INTO cursor SELECT value->>0, value->>1, ?2 FROM json_each(?1) WHERE true
ON CONFLICT DO UPDATE SET seq = max(seq, excluded.seq), at_ms = excluded.at_ms
"""

LOSS: Final = "REPLACE INTO loss VALUES (?1, ?2, ?3, ?4, ?5)"
FORGET_LOSS: Final = "DELETE FROM loss WHERE client_id = ?1 AND reason = ?2"

REVOKE: Final = "REPLACE INTO revocation VALUES (?1, ?2)"
LIFT: Final = "DELETE FROM revocation WHERE client_id = ?1"

# All that is kept of a client but its mail, which goes by DELETE, and a revocation. What was accepted since is pending,
# so its id still counts.
ERASE: Final = (
    "DELETE FROM dedup WHERE client_id = ?1 AND NOT EXISTS (SELECT 1 FROM mail WHERE mail.seq = dedup.seq)",
    "DELETE FROM receipt WHERE client_id = ?1 AND NOT EXISTS (SELECT 1 FROM mail WHERE mail.seq = receipt.seq)",
    "DELETE FROM cursor WHERE client_id = ?1",
    "DELETE FROM loss WHERE client_id = ?1",
    "DELETE FROM damaged WHERE client_id = ?1",
)

# What operators ask for. Who gets an error is not obeyed later: these do not go into another commit.
ORDERS: Final = frozenset((REVOKE, LIFT, *ERASE))

# Set a damaged record aside; DELETE follows.
SET_ASIDE: Final = "INSERT OR IGNORE INTO damaged SELECT seq, client_id, id, ?2, data FROM mail WHERE seq = ?1"

# Which of these [id, client_id] pairs were accepted before, and whether that mail is pending.
# One row, one step: Python's lock is taken back once, not per row (so in all that follows).
KNOWN: Final = """
SELECT json_group_array(json_array(d.id, d.client_id, d.seq, d.digest, d.expires_ms, d.until_ms, d.state,
       EXISTS (SELECT 1 FROM mail WHERE mail.seq = d.seq)))
FROM json_each(?) AS wanted JOIN dedup AS d ON d.id = wanted.value->>0 AND d.client_id = wanted.value->>1
"""

# The mail with these seqs.
READ: Final = """
SELECT json_group_array(json_array(seq, client_id, id, event, collapse_key, accepted_ms, expires_ms, flags, crc, data))
FROM mail WHERE seq IN (SELECT value FROM json_each(?))
"""

# All pending mail, for the index in memory.
LOAD: Final = "SELECT seq, client_id, expires_ms, size, flags, collapse_key FROM mail ORDER BY seq"

# The highest seq that was ever given, as far as anything tells it.
LAST_SEQ: Final = """
SELECT max((SELECT value FROM meta WHERE name = 'last_seq'), coalesce((SELECT max(seq) FROM mail), 0))
"""

# Whether a server has the file open, or had when it ended: brought into the database at once, see Store.open.
IN_USE: Final = "SELECT value FROM meta WHERE name = 'in_use'"
USE: Final = "REPLACE INTO meta VALUES ('in_use', ?)"

LOSSES: Final = "SELECT client_id, reason, total, told FROM loss"
REVOCATIONS: Final = "SELECT client_id, at_s FROM revocation"
CURSOR: Final = "SELECT seq FROM cursor WHERE client_id = ?"

RECEIPTS: Final = """
SELECT json_group_array(json_array(id, client_id, seq, state, accepted_ms, sent_ms, settled_ms, acked_by, attempts))
FROM receipt WHERE id = ?1 AND (?2 IS NULL OR client_id = ?2) AND until_ms > ?3
"""

# Forget ids whose window has passed and whose mail is gone: ?3 rows from the key (?1, ?2) on.
# Returns the last key looked at, so that the next call goes on there.
SWEEP_SPAN: Final = """
SELECT id, client_id FROM (
    SELECT id, client_id FROM dedup WHERE (id, client_id) > (?1, ?2) ORDER BY id, client_id LIMIT ?3
) ORDER BY id DESC, client_id DESC LIMIT 1
"""
SWEEP: Final = """
DELETE FROM dedup WHERE (id, client_id) > (?1, ?2) AND (id, client_id) <= (?3, ?4) AND until_ms <= ?5
AND NOT EXISTS (SELECT 1 FROM mail WHERE mail.seq = dedup.seq)
"""
# The same for receipts: ?2 rows from the seq ?1 on.
SWEEP_RECEIPTS_SPAN: Final = "SELECT max(seq) FROM (SELECT seq FROM receipt WHERE seq > ?1 ORDER BY seq LIMIT ?2)"
SWEEP_RECEIPTS: Final = "DELETE FROM receipt WHERE seq > ?1 AND seq <= ?2 AND until_ms <= ?3 AND state <> 'pending'"
SWEEP_LOSSES: Final = "DELETE FROM loss WHERE at_ms <= ? RETURNING client_id, reason, total"
