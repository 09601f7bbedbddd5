"""Laws of the tracking domain."""
