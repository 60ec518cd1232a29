"""Where the settings come from: `NOTIFIER_…` variables, and for secrets files that they name.

pydantic-settings reads the variables; what it lacks is here: files beside variables, variables that are nobody's,
and those that Kubernetes puts beside every container of a Service named `notifier`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic_settings import BaseSettings, EnvSettingsSource

from notifier.errors import Problem

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

PREFIX: Final = "NOTIFIER_"
SECRETS: Final = ("JWT_SECRET", "JWT_SECRET_PREVIOUS", "JWT_PUBLIC_KEY", "API_KEYS")
"""Settings that may be given as the content of a file, by NAME_FILE."""

_OF_CLIENTS: Final = ("URL", "API_KEY", "TOKEN")  # what `notifier send` and `listen` read
_MAX_FILE_BYTES: Final = 1024 * 1024
_KUBERNETES: Final = re.compile(r"SERVICE_.*|PORT_.*")
_OTHER_SERVICE: Final = re.compile(r".+_(SERVICE_(HOST|PORT)|PORT)(_.+)?")


class EnvironmentSource(EnvSettingsSource):
    """The variables of `environ` and the files that they name.

    After construction: `problems` with them, and `notes` for the log. Calling it gives the values as they stand.
    """

    def __init__(self, settings_cls: type[BaseSettings], names: Collection[str], environ: Mapping[str, str]) -> None:
        """`names` are the settings that the environment may give, in upper case and without the prefix."""
        super().__init__(settings_cls)
        self._environ = environ
        self._names = names
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.env_vars = {f"{PREFIX}{name}".lower(): value for name, value in self._read().items()}

    def prepare_field_value(
        self, field_name: str, field: FieldInfo, value: str | None, value_is_complex: bool
    ) -> object:
        return value  # lists are separated by commas here, not JSON; the field's own validator takes them apart

    def _read(self) -> dict[str, str]:
        # An empty variable counts as not set: compose files hand over ${NAME:-}.
        given = {
            name.removeprefix(PREFIX): value
            for name, value in sorted(self._environ.items())
            if name.startswith(PREFIX) and value.strip()
        }
        for name in [name for name, value in given.items() if not _is_text(value)]:
            self.problems.append(Problem(PREFIX + name, "is not UTF-8 text", "write it in UTF-8, best in ASCII only"))
            del given[name]
        self._take_away_kubernetes(given)
        files = {name: given.pop(f"{name}_FILE") for name in SECRETS if f"{name}_FILE" in given}
        for name in _OF_CLIENTS:
            given.pop(name, None)
        for name in [name for name in given if name not in self._names]:
            self._unknown(name)
            del given[name]
        for name, path in files.items():
            if name in given:
                problem = f"is set, and {PREFIX}{name}_FILE too"
                self.problems.append(Problem(PREFIX + name, problem, "keep one of the two"))
            elif (content := self._content(name, path)) is not None:
                given[name] = content
        return given

    def _take_away_kubernetes(self, given: dict[str, str]) -> None:
        injected = [name for name in given if _KUBERNETES.fullmatch(name)]
        if given.get("PORT", "").startswith("tcp://"):
            injected.append("PORT")
        for name in injected:
            del given[name]
        if injected:
            names = ", ".join(PREFIX + name for name in sorted(injected))
            self.notes.append(f"Ignored, because Kubernetes sets them for a Service named notifier: {names}")

    def _unknown(self, name: str) -> None:
        candidates = [*self._names, *(f"{secret}_FILE" for secret in SECRETS)]
        near = difflib.get_close_matches(name, candidates, 1, 0.75)
        if near:
            mend = f"did you mean {PREFIX}{near[0]}?"
        elif _OTHER_SERVICE.fullmatch(name):
            mend = "if Kubernetes sets it for a Service, set enableServiceLinks: false in the pod"
        else:
            mend = "remove it; `notifier config show` lists all settings"
        self.problems.append(Problem(PREFIX + name, "is not a setting", mend))

    def _content(self, name: str, path: str) -> str | None:
        variable = f"{PREFIX}{name}_FILE"
        try:
            with Path(path).open("rb") as file:
                content = file.read(_MAX_FILE_BYTES + 1)
            if len(content) > _MAX_FILE_BYTES:
                raise ValueError
            text = content.decode().rstrip("\r\n")  # the line end that editors and `echo` leave
        except OSError as error:
            self.problems.append(
                Problem(variable, f"names a file that cannot be read ({error.strerror})", "check path and permissions")
            )
        except ValueError:
            self.problems.append(
                Problem(variable, "names a file that is not a text of at most 1 MiB", "check the path")
            )
        else:
            if text.strip():
                return text
            self.problems.append(Problem(variable, "names an empty file", "write the value into it"))
        return None


def _is_text(value: str) -> bool:
    """Bytes that are no UTF-8 stand in the environment as lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
