"""Laws of single modules; the tree mirrors the source tree."""
