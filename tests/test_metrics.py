"""What is exported before anything has happened: every series whose labels are known, with 0."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from prometheus_client.parser import text_string_to_metric_families

from notifier import errors
from notifier.engine.base import LossReason
from notifier.metrics import FAILURES, LOSSES, OUTCOMES, REFUSALS, UNSEEN, Metrics
from notifier.transport.problems import BadRequest
from notifier.web import openapi

ROOT = Path(__file__).resolve().parents[1]
RULES = (ROOT / "deploy" / "prometheus-rules.yml").read_text()


def samples() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = Metrics("1.0", "sqlite").text().decode()
    found = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in found}


def test_series_of_known_labels_are_there_with_0_from_the_start() -> None:
    present = samples()
    known = {
        ("publishes_total", "outcome"): ("sent", "queued", "duplicate", "dropped", "storage_full", "mailbox_full"),
        ("notifications_lost_total", "reason"): ("expired", "overflow", "purged", "slow_consumer"),
        ("notifications_settled_total", "acked_by"): ("client", "transport"),
        ("engine_errors_total", "operation"): ("commit", "read", "damaged_record", "disk", "sweep"),
        ("engine_operation_duration_seconds_count", "operation"): ("commit",),
        ("handshakes_refused_total", "reason"): ("token_invalid", "token_expired", "forbidden_origin", "bad_frame"),
        ("requests_refused_total", "reason"): ("unauthorized", "forbidden", "token_missing"),
        ("connections_opened_total", "transport"): ("websocket", "sse"),
    }
    for (name, label), values in known.items():
        for value in values:
            assert present[f"notifier_{name}", frozenset({(label, value)})] == 0


def test_the_first_event_fires_each_alert_on_an_increase() -> None:
    """A series that begins with 1 has not increased: the one that an alert looks at is there before."""
    present = samples()
    watched = re.findall(r'increase\((notifier_\w+)(?:\{(\w+)="(\w+)"\})?', RULES)
    assert len(watched) >= 3
    for name, label, value in watched:
        found = [labels for there, labels in present if there == name and (not label or (label, value) in labels)]
        assert found, (name, label, value)


def test_the_known_labels_are_those_that_the_code_counts() -> None:
    source = "".join(path.read_text() for path in (ROOT / "notifier").rglob("*.py"))
    assert set(re.findall(r'engine_error\("(\w+)"\)', source)) == set(FAILURES)
    assert set(LOSSES) == {*get_args(LossReason), "slow_consumer"}
    assert {error.code for error in openapi.STORE} <= set(OUTCOMES)
    connect = next(operation for operation in openapi.OPERATIONS if operation.path == "/ws/notifications/{client_id}")
    assert {error.reason for error in connect.errors} <= set(REFUSALS)
    assert {error.reason for error in (errors.Unauthorized, errors.Forbidden)} <= set(UNSEEN)
    assert {error.code for error in (BadRequest, errors.TooLarge, errors.RequestTimeout)} <= set(UNSEEN)
