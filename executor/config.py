"""One frozen Config, the only reader of flags, environment and file.

A flag wins over the environment (`PERDURE_PORT`), which wins over the file (`DIR/config.toml`, or the one that
`PERDURE_CONFIG` names), which wins over the default. An unknown key in the file refuses to start; so does a variable
that looks like a misspelt one.
"""

# ruff: noqa: RUF009 - `_setting` makes a dataclass field, which is what a default may be

from __future__ import annotations

import dataclasses
import difflib
import logging
import os
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from executor.core.bounds import HISTORY_KEPT_BYTES, JOURNAL_BYTES_MAX, RESIDENT_BYTES_MAX, STEP_COUNT_MAX
from executor.core.errors import Refused, Unavailable

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["human", "json"]

MIB = 1024 * 1024
FACET_BYTES_MOST = 1024 * MIB
PROCESSES_MAX = 64
"""As many as there are shards: one more would own none."""
ENVIRONMENT_PREFIX = "PERDURE_"
OTHER_VARIABLES = frozenset({"PERDURE_CONFIG", "PERDURE_URL", "PERDURE_TOKEN", "PERDURE_TENANT", "PERDURE_PROFILE"})
"""Variables of ours that are no settings: where the file is, whom the command line talks to, the test profile."""
CONFIG_FILE = "config.toml"
UNLOAD = "every-wait"
"""The setting by which no run is kept at rest: for tests of replay, and where memory counts more than time."""
ADMIN_TOKEN_FILE = "admin-token"  # noqa: S105 - the name of a file
ADDRESS_FILE = "address"
TOKEN_CHARS_MIN = 16
"""A shorter token of the administrator's own choice is taken, for trials, and warned of."""

logger = logging.getLogger(__name__)


def _setting(default: Any, *, unit: str, reason: str) -> Any:
    return field(default=default, metadata={"unit": unit, "reason": reason})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every setting of the platform. Metadata of each field: its unit, and why the default is what it is."""

    data_dir: Path = _setting(Path("data"), unit="path", reason="everything the platform keeps; beside where you start")
    host: str = _setting("127.0.0.1", unit="address", reason="nothing outside this machine may connect until asked to")
    port: int = _setting(8420, unit="port", reason="unassigned, easy to remember; 0 takes a free one")
    admin_token: str | None = _setting(
        None, unit="secret", reason="made at the first start and kept in DIR/admin-token (mode 0600)"
    )
    public_url: str | None = _setting(
        None, unit="URL", reason="what clients are told; needed only behind a proxy that changes the address"
    )
    unconfined: bool = _setting(False, unit="yes/no", reason="tenant code runs confined or not at all, unless so named")
    processes: int = _setting(
        0,
        unit="processes",
        reason="0: as many as the data was made with; new data: one per usable core for a server, one embedded",
    )
    active_runs_max: int = _setting(2_000, unit="runs", reason="a crowd shares each fsync; some KiB of memory each")
    sandboxes_max: int = _setting(64, unit="processes", reason="about 20 MiB each: 1.3 GiB when all are in use")
    sandbox_idle_s: float = _setting(30.0, unit="s", reason="a new fork costs milliseconds; idle memory costs longer")
    retain_complete_days: float = _setting(0.0, unit="days", reason="0: complete instances are kept until deleted")
    retain_failed_days: float = _setting(0.0, unit="days", reason="the same for failed and terminated ones")
    unload: str = _setting(
        "", unit='"" or "every-wait"', reason="a run at rest with a long journal stays a moment: replay would cost more"
    )
    payload_bytes_max: int = _setting(MIB, unit="bytes", reason="one payload, event or step value; larger is a file")
    steps_max: int = _setting(STEP_COUNT_MAX, unit="steps", reason="of one execution: replay takes time in proportion")
    journal_bytes_max: int = _setting(JOURNAL_BYTES_MAX, unit="bytes", reason="of one execution: it is held in memory")
    history_bytes_max: int = _setting(
        HISTORY_KEPT_BYTES, unit="bytes", reason="of executions before the present one: what is older is for nobody"
    )
    facet_bytes_max: int = _setting(8 * MIB, unit="bytes", reason="the database of one instance; 1 GiB at most")
    resident_bytes_max: int = _setting(
        RESIDENT_BYTES_MAX, unit="bytes", reason="journals over 1 MiB of instances that run; a tenant has half at most"
    )
    blobs_bytes_max: int = _setting(256 * MIB, unit="bytes", reason="byte streams of one instance: disk, no memory")
    push_bytes_max: int = _setting(256 * MIB, unit="bytes", reason="one pack on the wire; sources are far smaller")
    deploy_bytes_max: int = _setting(32 * MIB, unit="bytes", reason="files deployed in one JSON body, held in memory")
    log_level: LogLevel = _setting("info", unit="level", reason="one line for each run and each refusal")
    log_format: LogFormat = _setting("human", unit="format", reason="read by people first; json for collectors")

    def __post_init__(self) -> None:
        for name in (
            "active_runs_max",
            "sandboxes_max",
            "payload_bytes_max",
            "push_bytes_max",
            "deploy_bytes_max",
            "steps_max",
            "journal_bytes_max",
            "resident_bytes_max",
            "blobs_bytes_max",
        ):
            if getattr(self, name) < 1:
                raise _bad(name, f"must be at least 1, is {getattr(self, name)}")
        if not 64 * 1024 <= self.facet_bytes_max <= FACET_BYTES_MOST:
            raise _bad("facet_bytes_max", f"must be between 64 KiB and 1 GiB, is {self.facet_bytes_max}")
        if not 0 <= self.processes <= PROCESSES_MAX:
            raise _bad("processes", f"must be between 0 and {PROCESSES_MAX}, is {self.processes}")
        if not 0 <= self.port <= 65_535:
            raise _bad("port", f"must be between 0 and 65535, is {self.port}")
        if self.unload not in ("", UNLOAD):
            raise _bad("unload", f'must be "" or "{UNLOAD}", is {self.unload!r}')
        for name in ("sandbox_idle_s", "retain_complete_days", "retain_failed_days"):
            if not getattr(self, name) >= 0:
                raise _bad(name, f"must not be negative, is {getattr(self, name):g}")
        if self.admin_token is not None and not (self.admin_token.isascii() and self.admin_token.strip()):
            raise _bad("admin_token", "is empty, or not ASCII")

    def __repr__(self) -> str:
        """Never shows the token, so that a Config can be logged."""
        shown = (
            f"{item.name}={'(hidden)' if item.name == 'admin_token' and self.admin_token else getattr(self, item.name)}"
            for item in dataclasses.fields(self)
        )
        return f"Config({', '.join(shown)})"


FIELDS: dict[str, dataclasses.Field[Any]] = {item.name: item for item in dataclasses.fields(Config)}


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Config:
    """The configuration from all three sources. A flag of None was not given.

    Raises Refused (`bad_request`): an unknown key, or a value of the wrong type or out of range; it names the key
    and where it was found.
    """
    environment = os.environ if environment is None else environment
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    for key in given:
        _known(key, "the flags")
    from_environment = _read_environment(environment)
    data_dir = Path(given.get("data_dir") or from_environment.get("data_dir") or "data")
    from_file = _read_file(_config_file(file, environment, data_dir))
    merged = from_file | from_environment | given
    return Config(**{key: _typed(key, value) for key, value in merged.items()})


def for_server(config: Config) -> Config:
    """The same configuration for a server: where nobody said how many processes, new data gets one per usable core."""
    if config.processes or any((config.data_dir / name).exists() for name in ("state", "layout.json")):
        return config
    return dataclasses.replace(config, processes=min(PROCESSES_MAX, len(os.sched_getaffinity(0))))


def with_admin_token(config: Config) -> Config:
    """The same configuration with the administrator's token: the configured one, else the one kept in the data
    directory, else a new one, which is kept there with mode 0600 (durable on return)."""
    if config.admin_token is not None:
        if len(config.admin_token) < TOKEN_CHARS_MIN:
            logger.warning(
                "the administrator's token is short enough to be guessed", extra={"chars_min": TOKEN_CHARS_MIN}
            )
        return config
    path = config.data_dir / ADMIN_TOKEN_FILE
    try:
        config.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        token = read_admin_token(config.data_dir)
        if token is None:
            token = "pda_" + secrets.token_urlsafe(32)
            _write_secret(path, token)
    except OSError as error:
        raise Unavailable(
            f"The data directory {config.data_dir} cannot be written: {error.strerror}.",
            code="storage_full" if error.errno == 28 else "busy",
            hint="Name a directory that this user may write (--data DIR).",
        ) from error
    return dataclasses.replace(config, admin_token=token)


def read_admin_token(data_dir: Path) -> str | None:
    """The token kept in a data directory, or None."""
    try:
        return (data_dir / ADMIN_TOKEN_FILE).read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None


def read_address(data_dir: Path) -> str | None:
    """Where the server of this data directory last said it listens, or None."""
    try:
        return (data_dir / ADDRESS_FILE).read_text(encoding="ascii").strip() or None
    except OSError:
        return None


def _write_secret(path: Path, secret: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _config_file(file: Path | None, environment: Mapping[str, str], data_dir: Path) -> Path | None:
    named = file or (Path(environment["PERDURE_CONFIG"]) if environment.get("PERDURE_CONFIG") else None)
    if named is not None:
        if not named.is_file():
            raise Refused(f"There is no configuration file {named}.", hint="Name an existing TOML file, or none.")
        return named
    default = data_dir / CONFIG_FILE
    return default if default.is_file() else None


def _read_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Refused(f"The configuration file {path} is no TOML: {error}.") from error
    for key in table:
        _known(key, str(path))
    return table


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for variable, value in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in OTHER_VARIABLES:
            continue
        key = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        key = "data_dir" if key == "data" else key
        if key in FIELDS:
            found[key] = value
        elif difflib.get_close_matches(key, FIELDS, n=1, cutoff=0.8):
            # Other programs, and container links, may own variables of this prefix; only likely typos refuse.
            _known(key, f"the environment ({variable})")
    return found


def _known(key: str, place: str) -> None:
    if key not in FIELDS:
        near = difflib.get_close_matches(key, FIELDS, n=1)
        raise Refused(
            f'There is no setting "{key}" (found in {place}).',
            hint=f'Did you mean "{near[0]}"?' if near else f"Settings: {', '.join(FIELDS)}.",
            key=key,
        )


def _bad(key: str, reason: str) -> Refused:
    return Refused(f'The setting "{key}" {reason}.', hint=f"Its unit: {FIELDS[key].metadata['unit']}.", key=key)


_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def _typed(key: str, value: Any) -> Any:
    """`value` as the field's type; text (from the environment) is read, anything else must already fit."""
    kind = str(FIELDS[key].type)
    if kind == "Path":
        if isinstance(value, str | Path) and str(value):
            return Path(value)
    elif kind == "bool":
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in _WORDS:
            return _WORDS[value.lower()]
    elif kind in ("int", "float"):
        number = _number(value, int if kind == "int" else float)
        if number is not None:
            return number
    elif kind in ("LogLevel", "LogFormat"):
        choices = get_args(LogLevel if kind == "LogLevel" else LogFormat)
        if value in choices:
            return value
        raise _bad(key, f"must be one of {', '.join(choices)}, is {value!r}")
    elif isinstance(value, str):
        return value
    shown = "(hidden)" if key == "admin_token" else repr(value)
    raise _bad(key, f"must be a {kind.removesuffix(' | None')}, is {shown}")


def _number(value: Any, kind: type[int | float]) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if kind is int and isinstance(value, float):
        return None
    try:
        return kind(value)
    except ValueError:
        return None
