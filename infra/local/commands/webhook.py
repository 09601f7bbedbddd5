"""`./afluente webhook ...`: the secrets that payment gateways prove their deliveries with."""

import sys
from enum import StrEnum
from typing import Annotated, Final

import typer

from api.signatures import standard_key
from app.credentials import Credentials, Purpose, Refused
from infra.local.commands.asking import with_credentials
from infra.local.terminal import AsJson, out, print_json
from schemas.tracking import GATEWAYS

app: Final = typer.Typer(no_args_is_help=True, help="Secrets of payment gateways.")

GatewayOption = StrEnum("GatewayOption", {name: name for name in GATEWAYS})  # type: ignore[misc]


@app.callback()
def group() -> None:
    """Secrets of payment gateways."""  # a callback keeps `set-secret` a word of its own while it is the only command


@app.command("set-secret")
def set_secret(
    tenant: Annotated[str, typer.Argument(help="the tenant's name or id")],
    gateway: Annotated[GatewayOption, typer.Argument(help="who signs")],
    following: Annotated[
        bool, typer.Option("--next", help="beside the current one, while the gateway changes over")
    ] = False,
    json: AsJson = False,
) -> None:
    """Read a secret from stdin (or ask for it) and store it encrypted. It is never an argument: those are seen by all.

    Rotation: `--next` with the new secret; change it at the gateway; then set it without `--next`.
    """
    secret = _read()
    purpose: Purpose = "next" if following else "current"

    async def store(credentials: Credentials) -> str:
        if gateway == "standard" and not standard_key(secret.encode()):
            raise Refused("a Standard Webhooks secret is whsec_ and base64")
        tenant_id = await credentials.find_tenant(tenant)
        await credentials.set_webhook_secret(tenant_id, gateway.value, secret, purpose)
        return str(tenant_id)

    tenant_id = with_credentials(store)
    if json:
        print_json({"tenant_id": tenant_id, "gateway": gateway.value, "purpose": purpose})
    else:
        out.print(f"{gateway.value}: {purpose} secret set.")


def _read() -> str:
    if sys.stdin.isatty():
        return str(typer.prompt("Secret", hide_input=True))
    return sys.stdin.readline().rstrip("\r\n")
