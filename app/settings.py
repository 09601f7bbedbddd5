"""Every setting of every Afluente process, read once from the environment and frozen.

The embedded stack writes its generated secrets to `$AFLUENTE_HOME/local.env`; production sets the same names
in the environment. A process reads `Settings.load()` at start and nothing downstream reads the environment.
"""

import base64
import os
from functools import lru_cache
from pathlib import Path
from typing import Self

from pydantic import Field, PostgresDsn, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

GROUP_ID = "afluente"  # one Faust app, one consumer group: every worker shares its partitions
MASTER_KEY_BYTES = 32  # AES-256 and HKDF-SHA256 input: anything shorter weakens both


class Settings(BaseSettings):
    """The resolved configuration. Numbers carry their unit as the last word of their name."""

    model_config = SettingsConfigDict(env_prefix="AFLUENTE_", extra="forbid", frozen=True, hide_input_in_errors=True)

    # Places and ports of the embedded stack, all on loopback.
    home: Path = Field(default=Path(".afluente"), description="data folder of the embedded stack")
    edge_port: int = Field(default=8000, ge=1, le=65535)
    kafka_port: int = Field(default=9092, ge=1, le=65535)
    postgres_port: int = Field(default=55432, ge=1, le=65535)
    clickhouse_port: int = Field(default=8123, ge=1, le=65535)
    worker_port: int = Field(default=8081, ge=0, le=65535, description="worker health and metrics; 0 = any")
    connect_port: int = Field(default=8083, ge=1, le=65535, description="Kafka Connect, started by `up --cdc`")
    watch_port: int = Field(default=8084, ge=1, le=65535, description="figures of `cdc watch`")

    # Where the parts are; empty means the embedded one on the port above.
    kafka_url: str = Field(default="", description="bootstrap servers, host:port[,host:port]")
    postgres_url: SecretStr = Field(default=SecretStr(""), description="postgresql://user:password@host/db")
    postgres_owner_url: SecretStr = Field(
        default=SecretStr(""), description="as postgres_url, for the owner of the tables: migrate, reconcile"
    )
    postgres_cdc_url: SecretStr = Field(
        default=SecretStr(""), description="as postgres_url, for the role that Debezium and `cdc` use"
    )
    connect_url: str = Field(default="", description="Kafka Connect, http(s)://host:port")
    clickhouse_url: str = Field(default="", description="http(s)://host:port")
    clickhouse_user: str = "default"
    clickhouse_password: SecretStr = SecretStr("")
    clickhouse_database: str = Field(default="afluente", pattern=r"^[a-z_][a-z0-9_]{0,62}$")
    clickhouse_cluster: str = Field(default="", pattern=r"^[A-Za-z0-9_-]*$", description="ON CLUSTER name")
    schema_registry_url: SecretStr = Field(
        default=SecretStr(""), description="Confluent-compatible registry; empty = lock file"
    )
    replication_factor: int = Field(default=1, ge=1, le=5, description="of the topics `topics apply` creates")
    partition_factor: int = Field(default=1, ge=1, le=64, description="multiplies each topic's partitions")

    # Secrets.
    master_key: SecretStr = Field(default=SecretStr(""), description="32 bytes, base64: encrypts, pseudonymises")

    # The worker.
    group_id: str = Field(default=GROUP_ID, pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="the consumer group")
    worker_id: str = Field(default="0", pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="static group member")
    batch_rows_max: int = Field(default=50_000, ge=1, le=500_000, description="records in one batch")
    batch_bytes_max: int = Field(default=12 << 20, ge=1 << 10, le=96 << 20, description="bytes in one batch")
    buffer_bytes_max: int = Field(default=40 << 20, ge=1 << 20, le=8 << 30, description="fetched, not yet taken")
    linger_ms: int = Field(default=200, ge=0, le=60_000, description="how long a batch waits to fill")
    dedupe_window_hours: int = Field(default=72, ge=1, le=8760, description="how long an event id is known")
    drain_timeout_s: float = Field(default=30.0, ge=1, le=600, description="SIGTERM: time to finish batches")
    session_timeout_s: float = Field(default=10.0, ge=6, le=300, description="Kafka group session")
    clickhouse_timeout_s: float = Field(default=60.0, ge=1, le=600, description="one insert, answer included")
    dlq_ratio_max: float = Field(default=0.5, gt=0, le=1, description="poison share of a batch that stops us")
    failpoints: str = Field(default="", description="tests only: name=action[,name=action]")

    watch_host: str = Field(default="127.0.0.1", description="where `cdc watch` listens; 0.0.0.0 in a container")
    worker_host: str = Field(default="127.0.0.1", description="where health and metrics listen")

    # The edge.
    edge_host: str = "127.0.0.1"
    produce_timeout_ms: int = Field(default=1_800, ge=100, le=60_000, description="then 503; under 2 s in all")
    edge_in_flight_bytes_max: int = Field(default=64 << 20, ge=1 << 20, le=4 << 30)
    edge_connections_max: int = Field(default=1_000, ge=1, le=100_000)
    edge_drain_s: float = Field(
        default=5.0, ge=0, le=300, description="SIGTERM: not ready, still serving, so that balancers learn; 0 = none"
    )
    credential_cache_s: float = Field(default=30.0, ge=0, le=3_600, description="a revoked key lives this long")
    cache_url: SecretStr = Field(default=SecretStr(""), description="of analytics: empty = off, memory:, redis://...")
    cache_s: float = Field(default=2.0, ge=0.1, le=60, description="a cached answer is never older than this")

    # Telemetry.
    log_level: str = Field(default="INFO", pattern=r"^(DEBUG|INFO|WARNING|ERROR)$")
    otlp_endpoint: str = Field(default="", description="OTLP/HTTP traces; empty = off")

    @field_validator("master_key")
    @classmethod
    def _master_key_is_32_bytes(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if text:
            try:
                size = len(base64.b64decode(text, validate=True))
            except ValueError:
                raise ValueError("AFLUENTE_MASTER_KEY must be base64") from None
            if size != MASTER_KEY_BYTES:
                raise ValueError(f"AFLUENTE_MASTER_KEY must be {MASTER_KEY_BYTES} bytes, base64")
        return value

    @field_validator("cache_url")
    @classmethod
    def _cache_is_known(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if url and url != "memory:" and not url.startswith(("redis://", "rediss://")):
            raise ValueError("AFLUENTE_CACHE_URL must be empty, memory:, redis://... or rediss://...")
        return value

    @field_validator("kafka_url", "connect_url", "clickhouse_url", "otlp_endpoint")
    @classmethod
    def _address_holds_no_password(cls, value: str) -> str:
        # These are shown in logs and by `status`. Nothing but a password needs an @ in them.
        if "@" in value:
            raise ValueError("must be an address without user:password@; ClickHouse has AFLUENTE_CLICKHOUSE_PASSWORD")
        return value

    @model_validator(mode="after")
    def _default_urls(self) -> Self:
        # Frozen model: the derived defaults are set through __dict__ once, before anybody reads them.
        if not self.kafka_url:
            self.__dict__["kafka_url"] = f"127.0.0.1:{self.kafka_port}"
        if not self.clickhouse_url:
            self.__dict__["clickhouse_url"] = f"http://127.0.0.1:{self.clickhouse_port}"
        if not self.connect_url:
            self.__dict__["connect_url"] = f"http://127.0.0.1:{self.connect_port}"
        if not self.postgres_url.get_secret_value():
            url = f"postgresql://afluente@127.0.0.1:{self.postgres_port}/afluente"
            self.__dict__["postgres_url"] = SecretStr(url)
        for name in ("postgres_url", "postgres_owner_url", "postgres_cdc_url"):
            _check_postgres_url(name, getattr(self, name).get_secret_value())
        return self

    @property
    def worker_folder(self) -> Path:
        """Where this worker keeps its state; each worker of a machine has its own."""
        return (self.home / "worker" / self.worker_id).absolute()

    @property
    def master_key_bytes(self) -> bytes:
        """The decoded master key. Raises ValueError when it is not set: there is no default."""
        text = self.master_key.get_secret_value()
        if not text:
            raise ValueError("AFLUENTE_MASTER_KEY is not set (32 random bytes, base64)")
        return base64.b64decode(text)

    @classmethod
    @lru_cache(maxsize=1)
    def load(cls) -> "Settings":
        """The environment first, then `$AFLUENTE_HOME/local.env` (written by the embedded stack), then defaults."""
        home = Path(os.environ.get("AFLUENTE_HOME", ".afluente"))
        return cls(_env_file=home / "local.env")  # type: ignore[call-arg]


def _check_postgres_url(name: str, text: str) -> None:
    if text:
        try:
            PostgresDsn(text)
        except ValidationError:
            # Says which one and not what it holds: there is a password in it.
            raise ValueError(f"AFLUENTE_{name.upper()} must be postgresql://user:password@host/db") from None
