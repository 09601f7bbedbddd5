"""Everything that is configured, and the embedded stack (`infra/local`) that `make up` starts."""
