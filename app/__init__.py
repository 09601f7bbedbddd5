"""The spine: transport, loop, progress, dedupe, codec, producer, DLQ, sinks. Knows no domain."""
