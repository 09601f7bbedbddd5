"""HTTP in: validates, wraps, produces, answers. Knows nothing of agents or tables."""
