"""The commands of `./afluente` that are more than a few lines: one module a noun, each with its own Typer app."""
