"""The environment of an embedded stack: generated secrets and chosen ports in `local.env`, read by every process."""

import base64
import difflib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values
from pydantic import PostgresDsn, ValidationError

from app.settings import MASTER_KEY_BYTES, Settings
from infra.local.faults import Fault
from infra.local.home import PRIVATE_FILE_MODE, Home, write_private

PASSWORD_BYTES = 24  # 192 bits: beyond guessing, and short enough to paste
PREFIX = "AFLUENTE_"
STACK_MARK = "AFLUENTE_STACK_MARK"  # every process of a stack carries its home in this name, so none can be lost
STACK_ONLY = frozenset({"AFLUENTE_CACHE", "AFLUENTE_PYTHON", STACK_MARK})
PORTS = ("edge_port", "kafka_port", "postgres_port", "clickhouse_port", "worker_port", "connect_port", "watch_port")
OWNER_ROLE = "afluente_owner"
APP_ROLE = "afluente"
CDC_ROLE = "afluente_cdc"
DATABASE = "afluente"
ROLE_OF = {
    "AFLUENTE_POSTGRES_URL": APP_ROLE,
    "AFLUENTE_POSTGRES_OWNER_URL": OWNER_ROLE,
    "AFLUENTE_POSTGRES_CDC_URL": CDC_ROLE,
}
HEADER = """\
# Written by `./afluente up`: the generated secrets and the ports of this stack. Keep it: without AFLUENTE_MASTER_KEY
# the stored webhook secrets cannot be read again. The process environment wins over this file.
"""


class BadEnvironment(Fault):
    """The environment cannot start a stack. The text says which name, and what is allowed."""


def _postgres_url(role: str, password: str, port: int) -> str:
    return f"postgresql://{role}:{password}@127.0.0.1:{port}/{DATABASE}"


def password_of(url: str) -> str:
    """The password inside one of our own URLs."""
    return PostgresDsn(url).hosts()[0]["password"] or ""


def _has_stores(home: Home) -> bool:
    return any((home.root / folder).exists() for folder in ("kafka", "postgres", "clickhouse"))


def _password(stored: Mapping[str, str | None], name: str) -> str:
    url = stored.get(name)
    return password_of(url) if url else secrets.token_hex(PASSWORD_BYTES)


def write_env_file(home: Home, environ: Mapping[str, str]) -> None:
    """Makes or refreshes `local.env`: secrets are generated once, ports follow the environment of the latest `up`."""
    stored = dotenv_values(home.env_file) if home.env_file.exists() else {}
    if not stored and _has_stores(home):
        raise BadEnvironment(
            f"{home.env_file} is missing, but {home.root} holds data that was made with its secrets.\n"
            "Put the file back, or remove the data with `./afluente clean`."
        )
    ports = {}
    for field in PORTS:
        name = PREFIX + field.upper()
        text = environ.get(name) or stored.get(name) or str(Settings.model_fields[field].default)
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
            raise BadEnvironment(f"{name}={text!r} is no port: a number from 1 to 65535 is needed.")
        ports[name] = int(text)
    port = ports["AFLUENTE_POSTGRES_PORT"]
    values = dict(stored)
    values["AFLUENTE_MASTER_KEY"] = (
        stored.get("AFLUENTE_MASTER_KEY") or base64.b64encode(secrets.token_bytes(MASTER_KEY_BYTES)).decode()
    )
    for name, role in ROLE_OF.items():
        values[name] = _postgres_url(role, _password(stored, name), port)
    values.update({name: str(number) for name, number in ports.items()})
    text = HEADER + "".join(f"{name}={value}\n" for name, value in sorted(values.items()))
    if not home.env_file.exists() or home.env_file.read_text(encoding="utf-8") != text:
        write_private(home.env_file, text)
    home.env_file.chmod(PRIVATE_FILE_MODE)


def load_settings(home: Home, environ: Mapping[str, str]) -> Settings:
    """The settings that a process of this stack would read with this environment."""
    # Handed over as arguments, because a test runs several stacks from one process environment.
    names = {PREFIX + field.upper(): field for field in Settings.model_fields}
    chosen = {names[name]: value for name, value in environ.items() if name in names}
    chosen["home"] = str(home.root)
    try:
        return Settings(_env_file=home.env_file, **chosen)  # type: ignore[call-arg,arg-type]
    except ValidationError as fault:
        lines = [
            f"  {PREFIX}{'_'.join(str(step) for step in error['loc']).upper().removeprefix(PREFIX)}: {error['msg']}"
            for error in fault.errors(include_url=False, include_input=False)
        ]
        place = f" (environment, then {home.env_file})" if home.env_file.exists() else ""
        raise BadEnvironment("These settings are refused" + place + ":\n" + "\n".join(lines)) from None


def misspelt(environ: Mapping[str, str]) -> list[str]:
    """Names that nothing reads, each with what was probably meant: a typing error would be silent otherwise."""
    known = sorted({PREFIX + field.upper() for field in Settings.model_fields} | STACK_ONLY)
    hints = []
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in known:
            continue
        near = difflib.get_close_matches(name, known, n=1)
        hints.append(f"{name} is not a setting of Afluente" + (f"; did you mean {near[0]}?" if near else ""))
    return hints


def process_environ(home: Home, environ: Mapping[str, str]) -> dict[str, str]:
    """What every process of the stack gets."""
    return {
        **environ,
        "AFLUENTE_HOME": str(home.root),
        STACK_MARK: str(home.root),
        "PYTHONUNBUFFERED": "1",
        # glibc keeps an arena for each thread by default: on small machines that is most of the idle memory.
        "MALLOC_ARENA_MAX": "2",
    }


def current_environ() -> dict[str, str]:
    """A copy of this process's environment, without the mark of a stack that may have started it."""
    return {name: value for name, value in os.environ.items() if name != STACK_MARK}


def relative(path: Path) -> str:
    """A path as a person at the repository's root would type it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
