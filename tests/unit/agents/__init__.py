"""Laws of the domains."""
