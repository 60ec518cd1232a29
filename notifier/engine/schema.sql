-- The tables of one engine file. Changing them means a new user_version and a migration.

-- Pending mail. The seq is unique in the file, so it is the key, and new mail is appended at one edge of the tree.
-- There is no index by client: the engine keeps each mailbox's seqs in memory (mailboxes.py).
-- `data` stands last, so that a scan of the other columns skips the overflow pages of long ones.
CREATE TABLE mail (
    seq INTEGER PRIMARY KEY,
    client_id TEXT NOT NULL,
    expires_ms INTEGER NOT NULL,
    flags INTEGER NOT NULL,
    size INTEGER NOT NULL,
    collapse_key TEXT,
    id TEXT NOT NULL,
    event TEXT,
    accepted_ms INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    data TEXT NOT NULL
) STRICT;

-- Which ids were accepted. Ids that the server makes grow with time, so they too are appended at one edge.
-- `state`: NULL while pending and after an acknowledgement by a client, `transport` after one by the transport,
-- else how it ended.
CREATE TABLE dedup (
    id TEXT NOT NULL,
    client_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    digest INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    until_ms INTEGER NOT NULL,
    state TEXT,
    PRIMARY KEY (id, client_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE receipt (
    id TEXT NOT NULL,
    client_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    state TEXT NOT NULL,
    accepted_ms INTEGER NOT NULL,
    sent_ms INTEGER,
    settled_ms INTEGER,
    acked_by TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    until_ms INTEGER NOT NULL,
    PRIMARY KEY (id, client_id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX receipt_seq ON receipt (seq);

-- The highest acknowledged seq of each client; may lag by a second after a crash (the mail itself never does).
CREATE TABLE cursor (
    client_id TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What left a mailbox unacknowledged and was not told yet: totals only grow, `told` follows.
CREATE TABLE loss (
    client_id TEXT NOT NULL,
    reason TEXT NOT NULL,
    total INTEGER NOT NULL,
    told INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (client_id, reason)
) STRICT, WITHOUT ROWID;

CREATE TABLE revocation (
    client_id TEXT PRIMARY KEY,
    at_s REAL NOT NULL
) STRICT, WITHOUT ROWID;

-- Records whose checksum did not match, kept for an operator to look at; never delivered.
CREATE TABLE damaged (
    seq INTEGER PRIMARY KEY,
    client_id TEXT NOT NULL,
    id TEXT NOT NULL,
    found_ms INTEGER NOT NULL,
    data ANY
) STRICT;

-- last_seq: when all mail is acknowledged no row of `mail` is left to tell it.
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('last_seq', 0);
