"""What tests share: stacks with their own home and ports, builders, checkers."""
