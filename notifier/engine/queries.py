"""The SQL of the writer thread that is not in schema.sql and batch.sql. A sentence over each."""

# One commit. Columns past the end of an operation's row are NULL.
COMMIT = """
INSERT INTO temp.batch
SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8, value->>9,
       value->>10, value->>11, value->>12, value->>13
FROM json_each(?)
"""

# Which of these [id, client_id] pairs were accepted before, and whether that mail is pending.
# One row, one step: Python's lock is taken back once, not per row (so in all that follows).
KNOWN = """
SELECT json_group_array(json_array(d.id, d.client_id, d.seq, d.digest, d.expires_ms, d.until_ms, d.state,
       EXISTS (SELECT 1 FROM mail WHERE mail.seq = d.seq)))
FROM json_each(?) AS wanted JOIN dedup AS d ON d.id = wanted.value->>0 AND d.client_id = wanted.value->>1
"""

# The mail with these seqs.
READ = """
SELECT json_group_array(json_array(seq, client_id, id, event, collapse_key, accepted_ms, expires_ms, flags, crc, data))
FROM mail WHERE seq IN (SELECT value FROM json_each(?))
"""

# All pending mail, for the index in memory.
LOAD = "SELECT seq, client_id, expires_ms, size, flags, collapse_key FROM mail ORDER BY seq"

# The highest seq that was ever given, as far as anything tells it.
LAST_SEQ = """
SELECT max((SELECT value FROM meta WHERE name = 'last_seq'), coalesce((SELECT max(seq) FROM mail), 0))
"""

LOSSES = "SELECT client_id, reason, total, told FROM loss"
REVOCATIONS = "SELECT client_id, at_s FROM revocation"
CURSOR = "SELECT seq FROM cursor WHERE client_id = ?"

RECEIPTS = """
SELECT json_group_array(json_array(id, client_id, seq, state, accepted_ms, sent_ms, settled_ms, acked_by, attempts))
FROM receipt WHERE id = ?1 AND (?2 IS NULL OR client_id = ?2) AND until_ms > ?3
"""

# Forget ids whose window has passed and whose mail is gone: ?3 rows from the key (?1, ?2) on.
# Returns the last key looked at, so that the next call goes on there.
SWEEP_SPAN = """
SELECT id, client_id FROM (
    SELECT id, client_id FROM dedup WHERE (id, client_id) > (?1, ?2) ORDER BY id, client_id LIMIT ?3
) ORDER BY id DESC, client_id DESC LIMIT 1
"""
SWEEP = """
DELETE FROM dedup WHERE (id, client_id) > (?1, ?2) AND (id, client_id) <= (?3, ?4) AND until_ms <= ?5
AND NOT EXISTS (SELECT 1 FROM mail WHERE mail.seq = dedup.seq)
"""
SWEEP_RECEIPTS = """
DELETE FROM receipt WHERE seq IN (SELECT seq FROM receipt WHERE seq < ?1 ORDER BY seq LIMIT 1000)
AND until_ms <= ?2 AND state <> 'pending'
"""
SWEEP_LOSSES = "DELETE FROM loss WHERE at_ms <= ?"
