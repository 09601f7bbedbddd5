"""What the spine tells its operators: metrics, logs, traces. Never a person's data."""
