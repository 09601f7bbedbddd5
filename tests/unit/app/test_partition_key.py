"""Keys and shards: one event, one place."""

import pytest
from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis import strategies as st

from app.partition_key import partition_key


@pytest.mark.parametrize(
    ("key", "hashed"),
    [  # from Kafka's own UtilsTest.java
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_javas(key: bytes, hashed: int) -> None:
    """The hash that decides the shard gives what Kafka's Java clients give."""
    assert murmur2(key) & 0xFFFFFFFF == hashed & 0xFFFFFFFF


@given(st.text(max_size=60), st.integers(1, 256))
def test_an_event_id_has_one_key_within_the_shards(event_id: str, shards: int) -> None:
    """The key is the tenant's, a pure function of the id, and within the number of shards."""
    key = partition_key("t", event_id, shards).decode()
    assert key == partition_key("t", event_id, shards).decode()
    if shards == 1:
        assert key == "t"
    else:
        tenant, _, shard = key.partition("/")
        assert tenant == "t"
        assert 0 <= int(shard) < shards
