"""Real server processes and real clients for tests. Knows the public protocol only, nothing of the package's inside."""

from tests.harness.client import Client, Closed, Refused, Response, apublish, arequest, publish, request
from tests.harness.server import Server
from tests.harness.tools import need

__all__ = ["Client", "Closed", "Refused", "Response", "Server", "apublish", "arequest", "need", "publish", "request"]
