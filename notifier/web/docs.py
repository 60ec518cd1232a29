"""/docs for people, /docs/errors, and the two documents that machines read. The pages are plain HTML, made here: no
script, nothing from another host, so they work behind any proxy and on a network without the Internet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from html import escape
from typing import Any

import msgspec
from fastapi import APIRouter, Response

from notifier.errors import ConfigurationError, NotifierError
from notifier.web import asyncapi, openapi

HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: .3rem .6rem; vertical-align: top;
border-bottom: 1px solid #ddd } code, pre { font: 14px/1.4 ui-monospace, monospace } pre { background: #f4f4f4;
padding: .6rem; overflow: auto } h2 { margin-top: 2rem } :target { background: #fff7d6 } summary { cursor: pointer }
@media (prefers-color-scheme: dark) { body { background: #16181b; color: #ddd } pre { background: #22252a }
td, th { border-color: #333 } a { color: #8bf } :target { background: #3a3413 } }
"""


def router(version: str) -> APIRouter:
    """The routes; open to everybody, like what they describe is in a public repository."""
    routes = APIRouter(tags=["operate"])

    @lru_cache(maxsize=8)
    def made(make: Callable[[str], bytes]) -> bytes:
        return make(version)

    def page(make: Callable[[str], bytes]) -> Response:
        return Response(made(make), media_type="text/html; charset=utf-8", headers=HEADERS)

    def data(make: Callable[[str], bytes]) -> Response:
        return Response(made(make), media_type="application/json", headers={"cache-control": "no-cache"})

    @routes.get("/docs")
    async def docs() -> Response:
        return page(docs_page)

    @routes.get("/docs/errors")
    async def errors() -> Response:
        return page(errors_page)

    @routes.get("/openapi.json")
    async def openapi_json() -> Response:
        return data(openapi_bytes)

    @routes.get("/asyncapi.json")
    async def asyncapi_json() -> Response:
        return data(asyncapi_bytes)

    return routes


def openapi_bytes(version: str) -> bytes:
    """The bytes of /openapi.json."""
    return msgspec.json.encode(openapi.document(version))


def asyncapi_bytes(version: str) -> bytes:
    """The bytes of /asyncapi.json."""
    return msgspec.json.encode(asyncapi.document(version))


def problems() -> list[type[NotifierError]]:
    """Every error that HTTP or a close frame can tell, in the order of their codes; one of those that share all."""
    found: dict[tuple[str, int], type[NotifierError]] = {}

    def walk(error: type[NotifierError]) -> None:
        if error is not ConfigurationError:  # that one ends the start, and is told by an exit code
            found.setdefault((error.code, error.status), error)
        for below in error.__subclasses__():
            walk(below)

    walk(NotifierError)
    return [found[key] for key in sorted(found)]


def _page(title: str, body: Iterator[str]) -> bytes:
    text = "\n".join(body)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style><h1>{escape(title)}</h1>\n{text}\n'
    ).encode()


def errors_page(version: str) -> bytes:
    """Each problem code with its cause and its mend."""

    def body() -> Iterator[str]:
        yield "<p>What <code>code</code> in a problem document, or the reason of a close, means. "
        yield '<a href="/docs">All paths and frames</a></p>'
        yield "<table><tr><th>code<th>HTTP<th>close<th>cause<th>mend</tr>"
        anchors = set()
        for error in problems():
            anchor = f' id="{error.code}"' if error.code not in anchors else ""
            anchors.add(error.code)
            cause = " ".join((error.__doc__ or "").split())
            yield (
                f"<tr{anchor}><td><code>{escape(error.code)}</code><td>{error.status}<td>{error.close_code}"
                f"<td>{escape(cause)}<td>{escape(error.mend)}</tr>"
            )
        yield "</table>"

    return _page("Errors", body())


def docs_page(version: str) -> bytes:
    """Every route and every frame."""
    spec, frames = openapi.document(version), asyncapi.document(version)

    def body() -> Iterator[str]:
        yield (
            f'<p>Version {escape(version)}. For machines: <a href="/openapi.json">openapi.json</a>, '
            '<a href="/asyncapi.json">asyncapi.json</a>. What goes wrong: <a href="/docs/errors">errors</a>.</p>'
        )
        for tag in spec["tags"]:
            yield f"<h2>{escape(tag['name'].capitalize())}</h2>"
            for path, methods in spec["paths"].items():
                for method, operation in methods.items():
                    if tag["name"] in operation["tags"]:
                        yield from _operation(method, path, operation, spec)
        for title, name in (("What a client hears", "hear"), ("What a client may say", "say")):
            yield f"<h2>{title}</h2>"
            for ref in frames["operations"][name]["messages"]:
                message = frames["components"]["messages"][ref["$ref"].rpartition("/")[2]]
                yield f"<p><code>{message['name']}</code> {escape(message['summary'])}</p>"
                yield _example(message["examples"][0]["payload"])

    return _page("Notifier", body())


def _operation(method: str, path: str, operation: dict[str, Any], spec: dict[str, Any]) -> Iterator[str]:
    yield (
        f'<details id="{operation["operationId"]}"><summary><code>{method.upper()} {escape(path)}</code> '
        f"{escape(operation['summary'])}</summary>"
    )
    for parameter in operation.get("parameters", ()):
        words = parameter.get("description", "")
        rule = escape(msgspec.json.encode(parameter["schema"]).decode())
        yield f"<p><code>{parameter['name']}</code> ({parameter['in']}) {escape(words)} <code>{rule}</code></p>"
    if "requestBody" in operation:
        yield from _media(operation["requestBody"]["content"], spec)
    for status, answer in operation["responses"].items():
        yield f"<p>{status}: {escape(answer['description'])}</p>"
        if int(status) < 400:
            yield from _media(answer.get("content", {}), spec)
    yield "</details>"


def _media(content: dict[str, Any], spec: dict[str, Any]) -> Iterator[str]:
    for media in content.values():
        schema = media["schema"]
        ref = (schema.get("anyOf") or [schema])[0].get("$ref", "")
        for example in spec["components"]["schemas"].get(ref.rpartition("/")[2], {}).get("examples", ()):
            yield _example(example)


def _example(value: Any) -> str:
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    return f"<pre>{escape(text)}</pre>"
