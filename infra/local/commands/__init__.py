"""The commands of `./afluente`, one module each. infra/local/cli.py lists them all."""
