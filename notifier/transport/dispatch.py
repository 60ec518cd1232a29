"""Who answers a request: a route of ours, or the FastAPI application; and what is told when that goes wrong."""

from __future__ import annotations

from typing import Any

from notifier.errors import Forbidden, NotifierError, Unauthorized
from notifier.transport import asgi
from notifier.transport.door import Door
from notifier.transport.problems import tell_defect
from notifier.transport.request import Request


def dispatch(door: Door, server_state: Any, request: Request) -> None:
    """Have `request` answered, now or later. `server_state`: uvicorn's, which knows the tasks under way."""
    route = request.head.route
    try:
        if request.refusal is not None and (route is not None or not asgi.decides(request.refusal)):
            raise request.refusal
        if route is None:
            asgi.run(door, server_state, request)
        else:
            route.handle(request)
    except NotifierError as error:
        if route is not None and route.name not in ("ws", "events"):
            door.node.metrics.published(error.code)
        if isinstance(error, (Unauthorized, Forbidden)):
            door.turned_away(error, request)
        elif request.cut:
            door.node.metrics.request_refused(error.code)
        request.fail(error)
    except Exception as error:
        tell_defect(request, error)
