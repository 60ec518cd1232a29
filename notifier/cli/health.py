"""`python -m notifier.cli.health`: exit 0 if the server in this container is alive.

For a container's health check: no shell and no curl are needed. It reads the two settings that say where to knock,
and nothing else.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys

_TIMEOUT = 3.0


def alive(environ: dict[str, str]) -> bool:
    """Ask /livez of the server that this environment configures."""
    port = environ.get("NOTIFIER_PORT", "").strip()  # as notifier.settings reads it
    # Kubernetes puts tcp://… there for a Service named notifier; the server ignores that, too.
    number = int(port) if port.isascii() and port.isdigit() else 8000
    host = environ.get("NOTIFIER_HOST", "").strip().removeprefix("[").removesuffix("]")
    if host in {"", "0.0.0.0"}:  # noqa: S104 - compared, not bound
        host = "127.0.0.1"
    elif host == "::":
        host = "::1"
    connection: http.client.HTTPConnection
    if environ.get("NOTIFIER_TLS_CERT", "").strip():
        # Is it alive, not who is it: the certificate names the public host, never the loopback address.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, number, timeout=_TIMEOUT, context=context)
    else:
        connection = http.client.HTTPConnection(host, number, timeout=_TIMEOUT)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if alive(dict(os.environ)) else 1)
