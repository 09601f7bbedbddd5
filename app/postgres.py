"""What Postgres' client raises where its server has gone away: for the edge, and for commands that ask tables."""

from typing import Final

import asyncpg

# InternalClientError too: a server's last words ("terminating connection") that reach asyncpg between two statements
# leave a connection whose next statement fails with it, until the end of the connection arrives.
GONE: Final = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)
