"""What commands that speak with an admin port have in common."""

from __future__ import annotations

import click


def _token(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """As the configuration takes it. Checked here since the HTTP client's own error would quote it."""
    token = value.strip()
    if not token.isprintable():
        raise click.BadParameter("must not contain control characters: it is sent in a header")
    return token


token_option = click.option(
    "--token",
    envvar="LLMGATE_ADMIN_TOKEN",
    default="",
    callback=_token,
    help="Admin token, if the gateway has one.",
)


def credentials(token: str) -> dict[bytes, bytes]:
    """Headers."""
    return {b"authorization": f"Bearer {token}".encode()} if token else {}
