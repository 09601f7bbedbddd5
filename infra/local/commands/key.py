"""`./afluente key ...`: the keys of a tenant. A key is shown once, when it is made."""

from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

import typer
from rich.table import Table

from app.credentials import Credentials, Key
from infra.local.commands.asking import with_credentials
from infra.local.terminal import AsJson, out, print_hint, print_json

app: Final = typer.Typer(no_args_is_help=True, help="Write, read and app keys: create, list, revoke.")

Tenant = Annotated[str, typer.Argument(help="the tenant's name or id")]


class KindOption(StrEnum):
    """What a key may do."""

    write = "write"
    read = "read"
    app = "app"


@app.command()
def create(
    tenant: Tenant,
    kind: Annotated[
        KindOption, typer.Option(help="write sends events, read reads them back, app opens bills")
    ] = KindOption.write,
    json: AsJson = False,
) -> None:
    """Create a key and show it, this once."""

    async def make(credentials: Credentials) -> dict[str, str]:
        tenant_id = await credentials.find_tenant(tenant)
        key_id, key = await credentials.create_key(tenant_id, kind.value)
        return {"key_id": str(key_id), "tenant_id": str(tenant_id), "kind": kind.value, "key": key}

    made = with_credentials(make)
    if json:
        print_json(made)
    else:
        typer.echo(made["key"])
        print_hint("Stored as a hash only: copy it now.")


@app.command("list")
def list_(tenant: Tenant, json: AsJson = False) -> None:
    """The keys of a tenant, by prefix, revoked ones too."""

    async def ask(credentials: Credentials) -> list[Key]:
        return await credentials.list_keys(await credentials.find_tenant(tenant))

    keys = with_credentials(ask)
    if json:
        names = ("kind", "prefix", "created_at", "revoked_at")
        print_json([{"key_id": key.id, **{name: getattr(key, name) for name in names}} for key in keys])
        return
    table = Table("key_id", "kind", "prefix", "created", "revoked")
    for key in keys:
        revoked = key.revoked_at.isoformat(timespec="seconds") if key.revoked_at else ""
        table.add_row(str(key.id), key.kind, key.prefix, key.created_at.isoformat(timespec="seconds"), revoked)
    out.print(table)


@app.command()
def revoke(key_id: Annotated[UUID, typer.Argument(help="from `key list`")], json: AsJson = False) -> None:
    """Revoke a key for good. Edges let go of it within AFLUENTE_CREDENTIAL_CACHE_S."""
    changed = with_credentials(lambda credentials: credentials.revoke_key(key_id))
    if json:
        print_json({"key_id": key_id, "revoked": True, "was_revoked_before": not changed})
    else:
        out.print("Revoked." if changed else "It was revoked before.")
