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


@click.command(epilog="\b\nExamples:\n  llmgate gpus\n  llmgate gpus --json -")
@click.option("--json", "json_file", metavar="FILE", help="Write JSON there (- is standard output).")
def gpus(json_file: str | None) -> None:
    """Show the NVIDIA GPUs of this machine: what they are, how they are, what lies between them."""
    try:
        with Nvml(socket.gethostname()) as nvml:
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
