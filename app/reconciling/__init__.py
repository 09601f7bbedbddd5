"""Does ClickHouse hold what Postgres holds? Beside the data path: compares mirrors at one LSN, and repairs them.

`postgres.py` and `clickhouse.py` read one side each, in the words of `dialect.py`; `progress.py` waits until ClickHouse
has seen an LSN; `compare.py` finds the rows that differ; `repair.py` sends them through the topic once more.
"""
