"""Ask real engines for the token ids of the requests in llama_cpp_counts.jsonl; how engine_ids.jsonl was made.

    python -m tests.tokens.record_engine_ids LLAMA_CPP_URL VLLM_URL > tests/tokens/engine_ids.jsonl

Both serve SmolLM2's tokenizer and template: llama.cpp `SmolLM2-135M-Instruct`, vLLM what `scripts/vllm serve` makes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import httpx2

REQUESTS = Path(__file__).with_name("llama_cpp_counts.jsonl")


def requests() -> list[dict[str, Any]]:
    _source, *pairs = map(json.loads, REQUESTS.read_text("utf-8").splitlines())
    return pairs


def llama_cpp(client: httpx2.Client, request: dict[str, Any]) -> list[int] | None:
    text = request.get("prompt")  # or token ids, which need no asking
    if "messages" in request:
        text = client.post("/apply-template", json=request).json().get("prompt")
    if not isinstance(text, str):
        return None
    body = {"content": text, "add_special": "messages" not in request, "parse_special": True}
    ids: list[int] = client.post("/tokenize", json=body).json()["tokens"]
    return ids


def vllm(client: httpx2.Client, request: dict[str, Any]) -> list[int] | None:
    if "messages" not in request and not isinstance(request.get("prompt"), str):
        return None
    body = {name: value for name, value in request.items() if name != "prompt_tokens"}
    answered = client.post("/tokenize", json={"model": "random-llama", **body})
    ids: list[int] | None = answered.json().get("tokens")
    return ids


def main(llama_cpp_url: str, vllm_url: str) -> None:
    with httpx2.Client(base_url=llama_cpp_url) as first, httpx2.Client(base_url=vllm_url) as second:
        for request in requests():
            sys.stdout.write(json.dumps({"llama.cpp": llama_cpp(first, request), "vllm": vllm(second, request)}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
