"""A driver that is not there: nvml_stub.c, compiled, and the file that says what its GPUs say."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support.processes import missing

SOURCE = Path(__file__).with_name("nvml_stub.c")
LIBRARY = "libnvidia-ml.so.1"

H100 = {
    "name": "NVIDIA H100 80GB HBM3",
    "temperature": 61,
    "utilization": 87,
    "memory_utilization": 40,
    "memory_total": 85_899_345_920,
    "memory_used": 72_000_000_000,
    "milliwatts": 512_300,
    "milliwatts_limit": 700_000,
    "sm_mhz": 1980,
    "memory_mhz": 2619,
    "reasons": 4,
    "corrected": 3,
    "uncorrected": 0,
    "uncorrected_now": 0,
    "remap_pending": 0,
    "pcie_sent_kb": 1200,
    "pcie_received_kb": 800,
    "nvlinks": 18,
    "nvlink_sent_kib": 5_000_000_000,
    "nvlink_received_kib": 1_000,
    "processes": 2,
    "topology": 10,
}


@functools.cache
def library() -> Path:
    """The compiled stub's folder. Where there is no compiler the test is skipped, and fails in CI."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        missing("there is no C compiler: apt-get install gcc libc6-dev")
    folder = Path(tempfile.mkdtemp(prefix="nvml-"))
    command = [compiler, "-shared", "-fPIC", "-O1", f"-Wl,-soname,{LIBRARY}", "-o", str(folder / LIBRARY), str(SOURCE)]
    subprocess.run(command, check=True)
    return folder


class Driver:
    """Plays GPUs. `environment` is for processes; this one has the stub loaded, under the real library's name."""

    def __init__(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._file = file
        self._said: dict[str, dict[str, object]] = {}
        ctypes.CDLL(str(library() / LIBRARY))  # from now on that name is loaded
        monkeypatch.setenv("LLMGATE_NVML_STUB", str(file))
        self.environment = {"LLMGATE_NVML_STUB": str(file), "LD_LIBRARY_PATH": str(library())}

    def says(self, **gpus: dict[str, object]) -> None:
        """`gpu0={…}`, `gpu1_2={…}` for an instance. Each stays as it was where nothing else is said of it."""
        for name, values in gpus.items():
            self._said.setdefault(name.removeprefix("gpu").replace("_", ":"), {}).update(values)
        lines = [f"{who} {key} {value}" for who, values in self._said.items() for key, value in values.items()]
        count = len({who.partition(":")[0] for who in self._said})
        new = self._file.with_suffix(".new")
        new.write_text("\n".join([f"- count {count}", "- driver 570.1", *lines, ""]))
        new.replace(self._file)

    def removes(self, gpu: str) -> None:
        del self._said[gpu]
        self.says()

    def forgets(self, gpu: str, key: str) -> None:
        del self._said[gpu][key]
        self.says()
