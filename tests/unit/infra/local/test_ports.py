"""Ports: what a person reads when one is taken."""

import socket

import pytest

from infra.local.ports import Need, PortTaken, check, free_port, is_free


@pytest.fixture
def listener():
    """A server of somebody else."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_taken_port_names_the_part_the_holder_and_the_setting(listener: int):
    """Who finds a port taken is told which part wanted it and which name moves it."""
    with pytest.raises(PortTaken) as taken:
        check([Need("Kafka", "127.0.0.1", listener, "AFLUENTE_KAFKA_PORT")])
    text = str(taken.value)
    assert f"Kafka needs port {listener}" in text
    assert "set AFLUENTE_KAFKA_PORT" in text


def test_every_taken_port_is_told_at_once(listener: int):
    """Nobody mends one port only to be told of the next."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        needs = [
            Need("Kafka", "127.0.0.1", listener, "AFLUENTE_KAFKA_PORT"),
            Need("Edge", "127.0.0.1", other.getsockname()[1], "AFLUENTE_EDGE_PORT"),
        ]
        with pytest.raises(PortTaken) as taken:
            check(needs)
    assert "AFLUENTE_KAFKA_PORT" in str(taken.value)
    assert "AFLUENTE_EDGE_PORT" in str(taken.value)


def test_two_parts_may_not_share_a_port():
    """Two settings with one value are a mistake of the environment, told with both names."""
    port = free_port()
    needs = [
        Need("Edge", "127.0.0.1", port, "AFLUENTE_EDGE_PORT"),
        Need("ClickHouse", "127.0.0.1", port, "AFLUENTE_CLICKHOUSE_PORT"),
    ]
    with pytest.raises(PortTaken, match="AFLUENTE_EDGE_PORT and AFLUENTE_CLICKHOUSE_PORT are both"):
        check(needs)


def test_a_server_on_all_addresses_counts():
    """A port that somebody holds on 0.0.0.0 is not free on loopback."""
    with socket.socket() as server:
        server.bind(("0.0.0.0", 0))
        server.listen()
        assert not is_free("127.0.0.1", server.getsockname()[1])
