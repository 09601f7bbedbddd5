"""Laws of the settings: secrets stay secret, what is wrong is refused by name, and derived addresses agree."""

import base64
from typing import Any

import pytest
from pydantic import ValidationError

from app.settings import MASTER_KEY_BYTES, Settings

SECRET = base64.b64encode(b"k" * MASTER_KEY_BYTES).decode()


def test_no_secret_shows_when_settings_are_printed() -> None:
    """Settings end up in logs and tracebacks."""
    url = "postgresql://afluente:pg-secret@127.0.0.1/afluente"
    shown = Settings(master_key=SECRET, clickhouse_password="ch-secret", postgres_url=url)
    for text in (repr(shown), str(shown), shown.model_dump_json()):
        assert not any(secret in text for secret in (SECRET, "ch-secret", "pg-secret"))


@pytest.mark.parametrize("key", ["not base64!", base64.b64encode(b"short").decode(), SECRET + SECRET])
def test_a_weak_master_key_is_refused_without_being_shown(key: str) -> None:
    """A short key would weaken what it encrypts; an error must not print it."""
    with pytest.raises(ValidationError, match="AFLUENTE_MASTER_KEY") as raised:
        Settings(master_key=key)
    assert key not in str(raised.value)


def test_there_is_no_default_master_key() -> None:
    """A key that everybody knows is worse than none."""
    with pytest.raises(ValueError, match="is not set"):
        _ = Settings().master_key_bytes


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_rows_max": 0},
        {"batch_rows_max": 500_001},
        {"linger_ms": -1},
        {"dlq_ratio_max": 0},
        {"edge_port": 70_000},
        {"clickhouse_database": "a; DROP TABLE b"},
        {"worker_id": "../elsewhere"},
        {"no_such_setting": 1},
    ],
    ids=str,
)
def test_a_setting_out_of_its_limits_is_refused(wrong: dict[str, Any]) -> None:
    """Every limit has an upper and a lower end, and a misspelt name is no setting."""
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Settings(**wrong)


def test_addresses_follow_the_ports() -> None:
    """Two stacks on one machine differ in their ports alone."""
    found = Settings(kafka_port=1111, clickhouse_port=2222, postgres_port=3333)
    assert (found.kafka_url, found.clickhouse_url) == ("127.0.0.1:1111", "http://127.0.0.1:2222")
    assert ":3333/" in found.postgres_url.get_secret_value()


def test_workers_of_one_machine_have_folders_of_their_own() -> None:
    """Two processes cannot open one RocksDB."""
    assert Settings(worker_id="1").worker_folder != Settings(worker_id="2").worker_folder


def test_settings_do_not_change() -> None:
    """What was checked at start is what runs."""
    with pytest.raises(ValidationError, match="frozen"):
        Settings().linger_ms = 1
