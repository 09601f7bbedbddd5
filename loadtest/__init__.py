"""Traffic against a running stack, and the checker that proves what became of it."""
