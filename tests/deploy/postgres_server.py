"""A PostgreSQL server of a test's own."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import free_port

START_SECONDS = 60
USER = "dagster"
#: Whom the server runs as where the tests are root's: it refuses to be root.
ACCOUNT = "postgres"


@dataclass(frozen=True)
class Postgres:
    """A running server, on loopback."""

    port: int
    password: str = field(repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that ``deploy/dagster.yaml`` refers to for its storage."""
        return {
            "DAGSTER_PG_HOST": "127.0.0.1",
            "DAGSTER_PG_PORT": str(self.port),
            "DAGSTER_PG_DATABASE": "postgres",
            "DAGSTER_PG_USERNAME": USER,
            "DAGSTER_PG_PASSWORD": self.password,
        }

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        """The rows of a statement."""
        import psycopg2

        with contextlib.closing(
            psycopg2.connect(
                host="127.0.0.1",
                port=self.port,
                dbname="postgres",
                user=USER,
                password=self.password,
                connect_timeout=5,
            )
        ) as connection:
            cursor = connection.cursor()
            cursor.execute(statement)
            return list(cursor.fetchall())


def programs() -> Path | None:
    """The folder of PostgreSQL's server programs."""
    if (config := shutil.which("pg_config")) is not None:
        said = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False).stdout.strip()
        if said and (Path(said) / "initdb").exists():
            return Path(said)
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def without_server() -> str:
    """Why no server can be started here; empty where one can."""
    if programs() is None:
        return "PostgreSQL's server (initdb, postgres) is not on this machine"
    if os.geteuid() == 0 and ACCOUNT not in (each.pw_name for each in pwd.getpwall()):
        return f"PostgreSQL refuses to run as root, and there is no user {ACCOUNT}"
    return ""


@contextlib.contextmanager
def running_server() -> Iterator[Postgres]:
    """A server with its data in a temporary folder."""
    folder = programs()
    assert folder is not None
    whose: dict[str, Any] = {}
    # Short, for the socket's path, and open to the server's user, who may not enter pytest's folder.
    home = Path(tempfile.mkdtemp(prefix="pg-"))
    if os.geteuid() == 0:
        account = pwd.getpwnam(ACCOUNT)
        whose = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        os.chown(home, account.pw_uid, account.pw_gid)
    running = Postgres(free_port(), secrets.token_urlsafe(24))
    password = home / "password"
    password.write_text(running.password)
    password.chmod(0o644)
    made = subprocess.run(
        [
            *(str(folder / "initdb"), "--pgdata", str(home / "data"), "--username", USER, "--pwfile", str(password)),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync"),
        ],
        capture_output=True,
        text=True,
        cwd=home,
        check=False,
        **whose,
    )
    assert made.returncode == 0, made.stderr
    log = home / "log"
    with log.open("wb") as stream:
        server = subprocess.Popen(
            [
                *(str(folder / "postgres"), "-D", str(home / "data"), "-p", str(running.port)),
                *("-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={home}", "-c", "fsync=off"),
            ],
            stdout=stream,
            stderr=stream,
            cwd=home,
            **whose,
        )
    try:
        _await(running, server, log)
        yield running
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)
        shutil.rmtree(home, ignore_errors=True)


def _await(running: Postgres, server: "subprocess.Popen[bytes]", log: Path) -> None:
    import psycopg2

    deadline = time.monotonic() + START_SECONDS
    while True:
        assert server.poll() is None, log.read_text()
        try:
            running.ask("SELECT 1")
            return
        except psycopg2.OperationalError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
