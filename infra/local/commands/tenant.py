"""`./afluente tenant ...`: who may use this installation, and within what."""

import re
from typing import Annotated, Final

import typer
from rich.table import Table

from app.credentials import Credentials, Refused
from infra.local.commands.asking import with_credentials
from infra.local.terminal import AsJson, out, print_hint, print_json

app: Final = typer.Typer(no_args_is_help=True, help="Tenants: create, list, and set their limits.")
_ORIGIN: Final = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|\*")

Name = Annotated[str, typer.Argument(help="name or id")]


@app.command()
def create(name: Annotated[str, typer.Argument(help="unique, 1 to 200 characters")], json: AsJson = False) -> None:
    """Create a tenant with a write, a read and an app key. They are shown once, now."""

    async def make(credentials: Credentials) -> dict[str, str]:
        tenant_id = await credentials.create_tenant(name)
        _, write_key = await credentials.create_key(tenant_id, "write")
        _, read_key = await credentials.create_key(tenant_id, "read")
        _, app_key = await credentials.create_key(tenant_id, "app")
        keys = {"write_key": write_key, "read_key": read_key, "app_key": app_key}
        return {"tenant_id": str(tenant_id), "name": name, **keys}

    made = with_credentials(make)
    if json:
        print_json(made)
        return
    for field, value in made.items():
        typer.echo(f"{field:<10} {value}")
    print_hint("The keys are stored as hashes only: copy them now.")


@app.command("list")
def list_(json: AsJson = False) -> None:
    """Every tenant with its settings."""
    tenants = with_credentials(lambda credentials: credentials.list_tenants())
    if json:
        print_json([{**_settings(t), "tenant_id": t.id, "name": t.name, "created_at": t.created_at} for t in tenants])
        return
    table = Table("tenant_id", "name", "created", "events/s", "shards", "origins")
    for t in tenants:
        limit = "unlimited" if t.rate_limit_per_s is None else f"{t.rate_limit_per_s:g}"
        created = t.created_at.isoformat(timespec="seconds")
        table.add_row(str(t.id), t.name, created, limit, str(t.shards), "\n".join(t.cors_origins))
    out.print(table)


@app.command("set")
def set_(
    tenant: Name,
    rate_limit: Annotated[float | None, typer.Option(help="events a second and edge process; 0 = unlimited")] = None,
    shards: Annotated[int | None, typer.Option(help="Kafka keys the tenant is spread over; may only grow")] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="a page that may call, e.g. https://shop.example; repeat; '' = none")
    ] = None,
    json: AsJson = False,
) -> None:
    """Change what is given; the rest stays. Edges follow within AFLUENTE_CREDENTIAL_CACHE_S."""

    async def change(credentials: Credentials) -> dict[str, object]:
        tenant_id = await credentials.find_tenant(tenant)
        now = next(t for t in await credentials.list_tenants() if t.id == tenant_id)
        limit = now.rate_limit_per_s if rate_limit is None else rate_limit or None
        origins = now.cors_origins if cors_origin is None else _origins(cors_origin)
        await credentials.set_tenant(
            tenant_id,
            rate_limit_per_s=limit,
            shards=now.shards if shards is None else shards,
            cors_origins=origins,
        )
        after = next(t for t in await credentials.list_tenants() if t.id == tenant_id)
        return {"tenant_id": tenant_id, **_settings(after)}

    changed = with_credentials(change)
    if json:
        print_json(changed)
    else:
        out.print(f"{tenant}: set.")


def _settings(tenant: object) -> dict[str, object]:
    return {name: getattr(tenant, name) for name in ("rate_limit_per_s", "shards", "cors_origins")}


def _origins(given: list[str]) -> list[str]:
    origins = [origin.rstrip("/").lower() for origin in given if origin]
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise Refused(f"{origin!r} is no origin: scheme and host, e.g. https://shop.example, or * for any page")
    return origins
