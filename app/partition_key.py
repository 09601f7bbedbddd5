"""Which key a record gets: its tenant, or one shard of a tenant that has outgrown a partition."""

from aiokafka.partitioner import murmur2

_POSITIVE = 0x7FFFFFFF  # Java's toPositive: drop the sign bit, as Kafka's own partitioner does


def partition_key(tenant_id: str, event_id: str, shards: int) -> bytes:
    """`tenant_id`, or `tenant_id/shard` by a hash of the event id, so that a duplicate meets its first."""
    if shards <= 1:
        return tenant_id.encode()
    return f"{tenant_id}/{(murmur2(event_id.encode()) & _POSITIVE) % shards}".encode()
