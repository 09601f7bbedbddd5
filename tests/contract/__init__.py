"""What the parts promise one another and the reader, checked without starting anything."""
