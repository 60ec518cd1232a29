"""The command line: its commands, and how an error becomes one line and an exit code."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from .installed import installed_version
from .output import CommandError, Exit, give_up_output, note, say

if TYPE_CHECKING:
    import typer

# In the order in which the help lists them. True: a group of commands.
_COMMANDS = {
    "dev": False,
    "serve": False,
    "token": False,
    "send": False,
    "listen": False,
    "backup": False,
    "keys": True,
    "config": True,
    "version": False,
}


def build(arguments: list[str]) -> typer.Typer:
    """The application, with only the command that `arguments` name: importing all of them takes longer than most run.

    Anything else there (an option, a misspelt name) gets all commands, so that the help and the error list them.
    """
    import typer

    app = typer.Typer(
        name="notifier",
        help="Authenticated notifications over WebSocket, stored until they are acknowledged.",
        epilog="Start with 'notifier dev'. Exit codes: 0 done, 1 failed, 2 usage, 69 unreachable, 78 configuration.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    # Without it, typer would take an application with one command for that command.
    app.callback()(_root)
    named = arguments[:1]
    for name in named if named and named[0] in _COMMANDS else _COMMANDS:
        module = import_module(f".{name}", __package__)
        if _COMMANDS[name]:
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(getattr(module, name))
    return app


def _root() -> None:
    """Authenticated notifications over WebSocket, stored until they are acknowledged."""


def run() -> None:
    """The console script."""
    try:
        # Loading typer takes three times as long as this answer, and a tenth of the server's start.
        if sys.argv[1:] == ["version"]:
            return say(f"notifier {installed_version()}")
        if sys.argv[1:] == ["serve"]:
            from .serve import serve

            return serve()
        build(sys.argv[1:])(prog_name="notifier")
    except CommandError as error:
        note(f"notifier: {error.message}")
        sys.exit(error.code)
    except BrokenPipeError:
        give_up_output()  # whoever read it has gone
        sys.exit(Exit.FAILED)
    except KeyboardInterrupt:
        sys.exit(130)
