"""Where rows go: durable when the call returns, under a token that makes a retry add nothing."""
