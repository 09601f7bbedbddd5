"""The environment of the embedded stack: secrets are made once, ports follow, mistakes are told."""

import stat
from pathlib import Path

import pytest

from infra.local.environment import (
    BadEnvironment,
    load_settings,
    misspelt,
    password_of,
    process_environ,
    write_env_file,
)
from infra.local.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home without a stack."""
    home = Home(tmp_path / "home")
    home.create()
    return home


def test_secrets_are_generated_once(home: Home):
    """A second start must read what the first one encrypted, and log in with what it created."""
    write_env_file(home, {})
    first = load_settings(home, {})
    write_env_file(home, {"AFLUENTE_POSTGRES_PORT": "5999"})
    second = load_settings(home, {})
    assert first.master_key_bytes == second.master_key_bytes
    for field in ("postgres_url", "postgres_owner_url"):
        before, after = (getattr(each, field).get_secret_value() for each in (first, second))
        assert password_of(before) == password_of(after)
        assert ":5999/" in after


def test_two_homes_share_no_secret(home: Home, tmp_path: Path):
    """What leaks from one stack opens no other."""
    other = Home(tmp_path / "other")
    other.create()
    write_env_file(home, {})
    write_env_file(other, {})
    one, two = load_settings(home, {}), load_settings(other, {})
    assert one.master_key_bytes != two.master_key_bytes
    assert one.postgres_url != two.postgres_url
    assert one.postgres_owner_url != one.postgres_url


def test_the_file_is_for_its_owner_alone(home: Home):
    """Other users of the machine cannot read the secrets, also when the file was made too open before."""
    write_env_file(home, {})
    home.env_file.chmod(0o644)
    write_env_file(home, {})
    assert stat.S_IMODE(home.env_file.stat().st_mode) == 0o600


def test_a_home_remembers_its_ports(home: Home):
    """Who comes back with nothing but AFLUENTE_HOME finds the stack that was started with ports of its own."""
    write_env_file(home, {"AFLUENTE_KAFKA_PORT": "19092"})
    write_env_file(home, {})
    assert load_settings(home, {}).kafka_url == "127.0.0.1:19092"


def test_the_process_environment_wins(home: Home):
    """What a person sets for one command is what that command uses."""
    write_env_file(home, {})
    assert load_settings(home, {"AFLUENTE_KAFKA_URL": "k1:9092"}).kafka_url == "k1:9092"


def test_lost_secrets_are_not_replaced_in_silence(home: Home):
    """Data that was made with a lost key is not joined by data of a new one."""
    (home.root / "postgres").mkdir()
    with pytest.raises(BadEnvironment, match="is missing, but"):
        write_env_file(home, {})


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1", "٣"])
def test_an_impossible_port_is_told_by_name(home: Home, port: str):
    """A port that cannot be is refused before anything starts."""
    with pytest.raises(BadEnvironment, match="AFLUENTE_EDGE_PORT="):
        write_env_file(home, {"AFLUENTE_EDGE_PORT": port})


def test_an_unknown_name_in_the_file_is_refused_by_name(home: Home):
    """A typing error in local.env is found at the start, and no value is shown."""
    write_env_file(home, {})
    with home.env_file.open("a") as file:
        file.write("AFLUENTE_EDGE_PROT=secret-7\n")
    with pytest.raises(BadEnvironment) as refused:
        load_settings(home, {})
    assert "AFLUENTE_EDGE_PROT" in str(refused.value)
    assert "secret-7" not in str(refused.value)


def test_a_misspelt_name_is_told_with_the_likely_one():
    """A name that nothing reads would be silently without effect."""
    (hint,) = misspelt({"AFLUENTE_EDGE_PROT": "1", "AFLUENTE_CACHE": "/c", "AFLUENTE_HOME": "/h", "OTHER": "x"})
    assert "did you mean AFLUENTE_EDGE_PORT?" in hint


def test_every_process_is_marked_with_its_home(home: Home):
    """The mark is what `down` finds processes by when the supervisor was killed."""
    environ = process_environ(home, {"PATH": "/bin"})
    assert environ["AFLUENTE_STACK_MARK"] == environ["AFLUENTE_HOME"] == str(home.root)
