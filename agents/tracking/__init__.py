"""Tracking: clicks, pageviews, checkouts and gateway sales into ClickHouse, one row an event id.

Pipelines: `tracking.collect` (tracking.collected -> tracking_events), `tracking.normalise` (gateway.received ->
gateway_events). State: seen event ids. Key: the tenant, so that one tenant's ids meet in one partition.
Replay: the same rows under the same token; a later status of an order is a row of its own.
"""
