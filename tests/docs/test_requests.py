from __future__ import annotations

import re

from llmgate.core.types import Kind
from llmgate.wire.engines import ENGINES, GENERIC
from llmgate.wire.kinds import ROUTES
from tests.docs.pages import read, rows

PAGE = read("docs/requests.md")
MAKES = {"vLLM": "vllm", "SGLang": "sglang", "TGI": "tgi", "TensorRT-LLM": "trtllm", "llama.cpp": "llamacpp"}
TABLE = [(re.findall(r"`(/\S+)`", paths), makes) for paths, _, makes, *_ in rows(PAGE) if paths.startswith("`/")]


def test_the_paths_are_those_of_the_page() -> None:
    assert sorted(path for paths, _ in TABLE for path in paths) == sorted(ROUTES)


def test_the_makes_that_have_a_path_are_those_of_the_page() -> None:
    assert set(MAKES.values()) == set(ENGINES) - {GENERIC}
    for paths, makes in TABLE:
        (kinds,) = [{ROUTES[path] for path in paths} - {Kind.COMPLETION, Kind.COUNT_TOKENS}]
        (kind,) = kinds
        having = {make for make in MAKES.values() if kind not in ENGINES[make].lacks}
        assert having == (set(MAKES.values()) if makes == "all" else {MAKES[make] for make in makes.split(", ")}), paths
