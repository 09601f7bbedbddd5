"""Laws of the checker and of the traffic it judges."""
