"""Where rows go: each sink's write is durable when it returns and safe to repeat with the same token."""
