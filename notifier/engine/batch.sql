-- One commit is one statement: INSERT INTO batch SELECT ... FROM json_each(?), a row per operation, in order.
-- SQLite then begins, works, commits and syncs within one call, during which Python's lock is free. With a statement
-- per row the writer thread would queue for that lock after every row.

CREATE TEMP VIEW batch (op, a, b, c, d, e, f, g, h, i, j, k, l, m) AS
SELECT 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0;

-- put: seq, client_id, expires_ms, flags, size, collapse_key, id, event, accepted_ms, crc, data, digest, dedup until_ms
CREATE TEMP TRIGGER batch_put INSTEAD OF INSERT ON batch WHEN NEW.op = 'put' BEGIN
    INSERT INTO mail VALUES (NEW.a, NEW.b, NEW.c, NEW.d, NEW.e, NEW.f, NEW.g, NEW.h, NEW.i, NEW.j, NEW.k);
    -- A row that is in the way has left its window: the writer has looked.
    REPLACE INTO dedup VALUES (NEW.g, NEW.b, NEW.a, NEW.l, NEW.c, NEW.m, NULL);
END;

-- receipt: id, client_id, seq, accepted_ms, until_ms
CREATE TEMP TRIGGER batch_receipt INSTEAD OF INSERT ON batch WHEN NEW.op = 'receipt' BEGIN
    REPLACE INTO receipt (id, client_id, seq, state, accepted_ms, until_ms)
    VALUES (NEW.a, NEW.b, NEW.c, 'pending', NEW.d, NEW.e);
END;

-- settle: seqs (JSON array), acked_by
CREATE TEMP TRIGGER batch_settle INSTEAD OF INSERT ON batch WHEN NEW.op = 'settle' BEGIN
    DELETE FROM mail WHERE seq IN (SELECT value FROM json_each(NEW.a));
END;

-- mark: seqs, dedup state: how these ended, where it was not by an acknowledgement of the client; goes before `settle`
CREATE TEMP TRIGGER batch_mark INSTEAD OF INSERT ON batch WHEN NEW.op = 'mark' BEGIN
    UPDATE dedup SET state = NEW.b WHERE (id, client_id) IN (
        SELECT id, client_id FROM mail WHERE seq IN (SELECT value FROM json_each(NEW.a)));
END;

-- close: seqs, state, at_ms, acked_by: the end of their receipts; the first end stays for ever
CREATE TEMP TRIGGER batch_close INSTEAD OF INSERT ON batch WHEN NEW.op = 'close' BEGIN
    UPDATE receipt SET state = NEW.b, settled_ms = NEW.c, acked_by = NEW.d
    WHERE seq IN (SELECT value FROM json_each(NEW.a)) AND state = 'pending';
END;

-- sent: seq, first sent_ms, attempts
CREATE TEMP TRIGGER batch_sent INSTEAD OF INSERT ON batch WHEN NEW.op = 'sent' BEGIN
    UPDATE receipt SET sent_ms = coalesce(sent_ms, NEW.b), attempts = attempts + NEW.c WHERE seq = NEW.a;
END;

-- last_seq: seq
CREATE TEMP TRIGGER batch_last_seq INSTEAD OF INSERT ON batch WHEN NEW.op = 'last_seq' BEGIN
    UPDATE meta SET value = NEW.a WHERE name = 'last_seq';
END;

-- cursor: client_id, seq, at_ms
CREATE TEMP TRIGGER batch_cursor INSTEAD OF INSERT ON batch WHEN NEW.op = 'cursor' BEGIN
    INSERT INTO cursor VALUES (NEW.a, NEW.b, NEW.c)
    ON CONFLICT DO UPDATE SET seq = max(seq, excluded.seq), at_ms = excluded.at_ms;
END;

-- loss: client_id, reason, total, told, at_ms
CREATE TEMP TRIGGER batch_loss INSTEAD OF INSERT ON batch WHEN NEW.op = 'loss' BEGIN
    REPLACE INTO loss VALUES (NEW.a, NEW.b, NEW.c, NEW.d, NEW.e);
    DELETE FROM loss WHERE client_id = NEW.a AND reason = NEW.b AND total = told;
END;

-- revoke: client_id, at_s (NULL lifts it)
CREATE TEMP TRIGGER batch_revoke INSTEAD OF INSERT ON batch WHEN NEW.op = 'revoke' BEGIN
    DELETE FROM revocation WHERE client_id = NEW.a;
    INSERT INTO revocation SELECT NEW.a, NEW.b WHERE NEW.b IS NOT NULL;
END;

-- erase: client_id; its mail went with `settle`
CREATE TEMP TRIGGER batch_erase INSTEAD OF INSERT ON batch WHEN NEW.op = 'erase' BEGIN
    DELETE FROM dedup WHERE client_id = NEW.a;
    DELETE FROM receipt WHERE client_id = NEW.a;
    DELETE FROM cursor WHERE client_id = NEW.a;
    DELETE FROM loss WHERE client_id = NEW.a;
    DELETE FROM damaged WHERE client_id = NEW.a;
END;

-- damaged: seq, found_ms; sets a record aside
CREATE TEMP TRIGGER batch_damaged INSTEAD OF INSERT ON batch WHEN NEW.op = 'damaged' BEGIN
    INSERT OR IGNORE INTO damaged SELECT seq, client_id, id, NEW.b, data FROM mail WHERE seq = NEW.a;
    DELETE FROM mail WHERE seq = NEW.a;
END;
