from __future__ import annotations

import pytest

from llmgate.core.hardware import ANCHORS, PRIORS, prior_weight


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("B200", 2.5),
        ("NVIDIA B200", 2.5),
        ("H100", 1.6),
        ("NVIDIA H100 80GB HBM3", 1.6),
        ("H800", 1.6),
        ("NVIDIA H100 PCIe", PRIORS["h100-pcie"]),
        ("A100", 1.0),
        ("A100-80GB", 1.0),
        ("a100_80gb", 1.0),
        ("NVIDIA A100-SXM4-80GB", 1.0),
        ("NVIDIA A800 80GB PCIe", 1.0),
        ("A100-40GB", 0.7),
        ("NVIDIA A100-SXM4-40GB", 0.7),
        ("a100 40 GB", 0.7),
        ("NVIDIA L40S", PRIORS["l40s"]),
        ("NVIDIA L4", PRIORS["l4"]),
        ("Tesla T4", PRIORS["t4"]),
        ("Tesla V100-SXM2-16GB", PRIORS["v100"]),
        ("NVIDIA GeForce RTX 4090", PRIORS["rtx-4090"]),
        ("NVIDIA RTX A6000", PRIORS["a6000"]),
        ("NVIDIA RTX 6000 Ada Generation", PRIORS["rtx-6000-ada"]),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", PRIORS["rtx-pro-6000"]),
        ("AMD Instinct MI300X", PRIORS["mi300x"]),
        ("", None),
        ("100", None),
        ("H20", None),
        ("XH100", None),
        ("Potato 80GB", None),
    ],
)
def test_names_are_read_as_people_write_them(name: str, weight: float | None) -> None:
    assert prior_weight(name) == weight


def test_more_gpus_are_worth_as_many_times_more() -> None:
    assert prior_weight("H100", 4) == 4 * 1.6


def test_the_others_lie_between_the_anchors_by_their_bandwidth() -> None:
    assert PRIORS.keys() > ANCHORS.keys()
    assert PRIORS["l4"] == 0.15  # 300 of the A100's 2,039 GB/s
    assert PRIORS["h100-pcie"] == 0.98
    assert PRIORS["mi300x"] == 1.98  # 1,950 of the 4,650 GB/s between H100 and B200
    assert PRIORS["gb200"] == PRIORS["b200"] == max(PRIORS.values())
