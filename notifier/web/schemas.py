"""JSON Schemas of what is said here, made from the types that decode and encode it, with the rules of fields.py."""

from __future__ import annotations

from typing import Any

import msgspec

from notifier.fields import (
    MAX_COLLAPSE_KEY_BYTES,
    MAX_ID_CHARACTERS,
    MAX_NAME_BYTES,
    RESERVED_EVENTS,
)
from notifier.web.publication import MAX_RECIPIENTS

PLAIN = "^[^\\x00-\\x1f\\x7f-\\x9f]+$"
NAME: dict[str, Any] = {"minLength": 1, "maxLength": MAX_NAME_BYTES, "pattern": PLAIN, "examples": ["alice"]}
RULES: dict[str, dict[str, Any]] = {
    "client_id": NAME | {"description": "1–200 bytes, no control characters, no white space at the ends."},
    "group": NAME | {"description": "A group that tokens name.", "examples": ["room:lobby"]},
    "id": {"pattern": f"^[!-~]{{1,{MAX_ID_CHARACTERS}}}$", "description": "Yours, to retry with; made if absent."},
    "event": {
        "pattern": "^[A-Za-z0-9._:/-]{1,64}$",
        "not": {"enum": sorted(RESERVED_EVENTS)},
        "examples": ["invoice.paid"],
    },
    "collapse_key": {"minLength": 1, "maxLength": MAX_COLLAPSE_KEY_BYTES, "pattern": PLAIN},
}
"""What msgspec's types do not say: publication.check and fields.py do."""


def components(types: list[Any], prefix: str = "#/components/schemas/") -> dict[str, Any]:
    """The schemas of these types and of all that they hold, by name."""
    _, found = msgspec.json.schema_components(types, ref_template=prefix + "{name}")
    for name in ("NotifyBody", "BroadcastBody"):
        if name in found:
            _add_rules(found[name]["properties"])
    if "NotifyBody" in found:
        body = found["NotifyBody"]
        body["oneOf"] = [{"required": [who]} for who in ("client_id", "client_ids", "group")]
        body["properties"]["client_ids"] |= {"minItems": 1, "maxItems": MAX_RECIPIENTS, "uniqueItems": True}
        body["properties"]["data"] = {"description": "Any JSON. The same text goes out."}
    return found


def _add_rules(properties: dict[str, Any]) -> None:
    for name, rule in RULES.items():
        if name in properties:
            properties[name] |= rule
