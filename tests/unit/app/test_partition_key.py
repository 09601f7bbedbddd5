"""Laws of the partitioner: one tenant, one partition, whichever producer writes: the dedupe state is there."""

import ctypes
from pathlib import Path

import confluent_kafka
import pytest
from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis import strategies as st

from app.partition_key import partition_key
from app.producer import Producer
from tests.support.records import TENANT

# Apache Kafka, clients/src/test/java/org/apache/kafka/common/utils/UtilsTest.java, testMurmur2: key -> Java int.
JAVA_VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}
POSITIVE = 0x7FFFFFFF  # Utils.toPositive
PARTITIONS_MAX = 2**31 - 1  # so many that the partition is the positive hash itself, almost always
BUNDLED = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"


def librdkafka() -> ctypes.CDLL:
    """The library that our producer runs on, as its wheel carries it."""
    return ctypes.CDLL(str(next(BUNDLED.glob("librdkafka*"))))


@pytest.fixture(scope="module")
def partitioner() -> "ctypes._NamedFuncPointer":
    """The public `rd_kafka_msg_partitioner_murmur2_random` of rdkafka.h: our producer's own partitioner."""
    function = librdkafka().rd_kafka_msg_partitioner_murmur2_random
    function.restype = ctypes.c_int32
    function.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_int32,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    return function


def partition(key: bytes, partitions: int) -> int:
    """Java's rule for a record with a key, over aiokafka's hash: what Debezium, Connect and any Java client do."""
    return int((murmur2(key) & POSITIVE) % partitions)


@pytest.mark.parametrize(("key", "expected"), JAVA_VECTORS.items(), ids=str)
def test_the_hash_is_javas(key: bytes, expected: int) -> None:
    """A record written by a Java client lands beside those of the edge."""
    assert ctypes.c_int32(murmur2(key)).value == expected


@pytest.mark.parametrize(("key", "expected"), JAVA_VECTORS.items(), ids=str)
def test_our_producer_chooses_the_partition_that_java_chooses(
    partitioner: "ctypes._NamedFuncPointer", key: bytes, expected: int
) -> None:
    """The default of librdkafka is another hash (CRC32): the option in our producer is what makes them agree."""
    for partitions in (1, 4, 8, 97, PARTITIONS_MAX):
        found = partitioner(None, key, len(key), partitions, None, None)
        assert found == (expected & POSITIVE) % partitions


# librdkafka takes an empty key for none and spreads it; ours are never empty.
@given(st.binary(min_size=1, max_size=120), st.integers(1, 2**31 - 1))
def test_both_clients_choose_the_same_partition(
    partitioner: "ctypes._NamedFuncPointer", key: bytes, partitions: int
) -> None:
    """Every producer of a topic agrees on the partition of a tenant, whatever its key and the number of partitions."""
    assert partitioner(None, key, len(key), partitions, None, None) == partition(key, partitions)


async def test_the_producer_asks_for_that_partitioner() -> None:
    """The law above is about the partitioner that the producer really uses."""
    producer = Producer("127.0.0.1:1", timeout_ms=100)
    try:
        assert producer._options["partitioner"] == "murmur2_random"
    finally:
        await producer.close()


@given(st.text(max_size=40))
def test_a_tenant_of_one_partition_is_its_key(event_id: str) -> None:
    """One partition keeps a tenant's order and its dedupe state."""
    assert partition_key(TENANT, event_id, 1) == TENANT.encode()


@given(st.text(max_size=40), st.integers(2, 64))
def test_a_duplicate_meets_its_first_carrier(event_id: str, shards: int) -> None:
    """A tenant that has outgrown a partition is spread by event id, so that equal ids share a shard."""
    key = partition_key(TENANT, event_id, shards)
    owner, shard = key.rsplit(b"/", 1)
    assert owner == TENANT.encode()
    assert 0 <= int(shard) < shards
    assert partition_key(TENANT, event_id, shards) == key


def test_every_shard_is_used() -> None:
    """A shard that no event id reaches would be a partition's share of throughput given away."""
    assert {partition_key(TENANT, str(number), 8) for number in range(200)} == {
        f"{TENANT}/{shard}".encode() for shard in range(8)
    }
