"""The embedded stack: real Kafka, Postgres and ClickHouse beside the edge and a worker, from Python packages alone."""
