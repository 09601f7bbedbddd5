"""Bills: what Postgres commits to bills and their occurrences, mirrored in ClickHouse and told as events.

Pipelines: `bills.mirror` (bills.changes -> bills, bill_occurrences, cdc_progress, and the topic bills.events). State:
seen changes. Key: the tenant. Replay: the same versions, which replace themselves, and events with the same ids.
"""
