"""What we remember: one module a domain, declarations only."""
