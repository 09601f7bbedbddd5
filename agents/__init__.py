"""What we do with events: the topology, the worker, and one folder a domain."""
