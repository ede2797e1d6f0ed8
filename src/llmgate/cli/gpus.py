from __future__ import annotations

import dataclasses
import json
import socket
import sys
from typing import Any

import click

from llmgate.cli.output import to_file
from llmgate.core.gpu import GpuHealth, GpuReading
from llmgate.probes.nvml import NoDriver, Nvml

GIB = 2**30


def _address(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, int] | None:
    if value is None:
        return None
    host, _, port = value.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65_536:
        raise click.BadParameter("must be PORT, or HOST:PORT as in 0.0.0.0:9401")
    return host.strip("[]") or "127.0.0.1", int(port)


@click.command(
    epilog="\b\nExamples:\n  llmgate gpus\n  llmgate gpus --json -\n  llmgate gpus --serve 0.0.0.0:9401 --node gpu-box"
)
@click.option("--json", "json_file", metavar="FILE", help="Write JSON there (- is standard output).")
@click.option(
    "--serve",
    "address",
    metavar="[HOST:]PORT",
    callback=_address,
    help="Tell gateways on other machines (gpus.exporters) and Prometheus of them, until stopped. HOST: 127.0.0.1.",
)
@click.option("--node", default=socket.gethostname, show_default="host name", help="What this machine is called.")
def gpus(json_file: str | None, address: tuple[str, int] | None, node: str) -> None:
    """Show the NVIDIA GPUs of this machine: what they are, how they are, what lies between them."""
    try:
        if address is not None:
            _serve(node, *address)
            return
        with Nvml(node) as nvml:
            readings, links, driver = nvml.read(), nvml.topology(), nvml.driver
    except NoDriver as error:
        click.echo(f"llmgate: the GPUs of this machine cannot be read: {error}", err=True)
        sys.exit(1)
    if json_file is None:
        _show(readings, links, driver)
        return
    content = {"driver": driver, "gpus": [_as_json(each) for each in readings], "topology": links}
    try:
        to_file(json_file, json.dumps(content, indent=2).encode() + b"\n")
    except ValueError as error:
        raise click.ClickException(str(error)) from None


def _serve(node: str, host: str, port: int) -> None:
    """Raises NoDriver."""
    from llmgate.cli.gpus_server import serve
    from llmgate.telemetry import app_log

    app_log.set_up("info", "auto")
    serve(node, host, port)


def _as_json(reading: GpuReading) -> dict[str, Any]:
    state, reason = GpuHealth().judge(reading)
    fields = dataclasses.asdict(reading)
    fields["throttled"] = None if reading.throttled is None else sorted(reading.throttled)
    del fields["at"]
    return {**fields.pop("gpu"), **fields, "state": state.value, "reason": reason}


def _show(readings: list[GpuReading], links: list[list[str]], driver: str) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, emoji=False)
    table = Table(title=f"driver {driver}", title_justify="left")
    for column in ("gpu", "name", "uuid", "busy", "memory", "°C", "power", "ECC", "state"):
        table.add_column(column, justify="left" if column in ("gpu", "name", "uuid", "state") else "right")
    for each in readings:
        state, reason = GpuHealth().judge(each)
        table.add_row(
            each.gpu.label,
            each.gpu.name,
            each.gpu.uuid,
            "" if each.utilization is None else f"{each.utilization:.0%}",
            ""
            if each.memory_used is None
            else f"{each.memory_used / GIB:.1f} of {(each.memory_total or 0) / GIB:.0f} GiB",
            "" if each.temperature is None else f"{each.temperature:g}",
            ""
            if each.power is None
            else f"{each.power:.0f} W" + (f" of {each.power_limit:.0f}" if each.power_limit else ""),
            "" if each.ecc_uncorrected is None else f"{each.ecc_corrected} + {each.ecc_uncorrected}",
            f"{state.value}: {reason}" if reason else state.value,
        )
    console.print(table)
    if len(links) > 1:
        between = Table(title="between them", title_justify="left")
        for column in ("gpu", *map(str, range(len(links)))):
            between.add_column(column)
        for index, row in enumerate(links):
            between.add_row(str(index), *row)
        console.print(between)
