"""What crosses a boundary: envelope, topics, Avro, ClickHouse and Postgres definitions. No framework imports."""
