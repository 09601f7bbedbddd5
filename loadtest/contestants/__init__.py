"""What people would use instead: each a process of its own, started by loadtest/arena.py on the same records."""
