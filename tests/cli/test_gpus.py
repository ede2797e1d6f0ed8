from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from llmgate.cli.main import main
from tests.support.nvml import H100, Driver


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    return Driver(tmp_path / "gpus", monkeypatch)


def test_the_inventory_is_a_table_with_what_lies_between_gpus(driver: Driver) -> None:
    driver.says(gpu0={**H100, "uuid": "GPU-1"}, gpu1={**H100, "uuid": "GPU-2", "temperature": 91})
    result = CliRunner().invoke(main, ["gpus"], env={"COLUMNS": "160"})
    assert result.exit_code == 0
    for text in (
        "driver 570.1",
        "GPU-1",
        "87%",
        "67.1 of 80 GiB",
        "512 W of 700",
        "3 + 0",
        "degraded: 91 °C",
        "switch",
    ):
        assert text in result.output


def test_the_inventory_as_json(driver: Driver) -> None:
    driver.says(gpu0={**H100, "uuid": "GPU-1"})
    result = CliRunner().invoke(main, ["gpus", "--json", "-"])
    assert result.exit_code == 0
    content = json.loads(result.output)
    assert content["topology"] == [["-"]]
    (gpu,) = content["gpus"]
    assert (gpu["uuid"], gpu["state"], gpu["throttled"], gpu["power"]) == ("GPU-1", "ok", ["power_cap"], 512.3)


def test_without_a_driver_it_is_a_sentence_and_exit_1(driver: Driver) -> None:
    result = CliRunner().invoke(main, ["gpus"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "llmgate: the GPUs of this machine cannot be read: Driver Not Loaded\n"
