"""Prompts of several kinds as raw JSON, each with its exact token count: what the estimator is judged on."""

from __future__ import annotations

import json
import random
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llmgate.tokens import TokenCounter

FIXTURES = Path(__file__).parents[2] / "tests" / "data" / "prompts"
_MODULES = (
    "argparse ast calendar configparser csv dataclasses difflib enum fractions heapq inspect ipaddress mailbox pdb"
)
_MODULES += " pickle shutil socketserver statistics tarfile textwrap threading typing uuid json/decoder unittest/case"


class Sample(NamedTuple):
    raw: bytes  # the value of `messages`, as some client would write it
    tokens: int


def build(counter: TokenCounter, prompts: Path = FIXTURES, count: int = 300, seed: int = 0) -> dict[str, list[Sample]]:
    """`count` prompts of each kind, and `mix` of all kinds alike; the same for the same arguments.

    `prompts` holds what tests/data/prompts holds, or the whole data sets under their own names.
    """
    rng = random.Random(seed)
    miniswe = [record["input"] for record in _records(prompts, "miniswe*.jsonl", "miniswe/*.jsonl")]
    gsm8k = [record["question"] for record in _records(prompts, "gsm8k*.jsonl")]
    sonnet = (prompts / "sonnet.txt").read_text("utf-8").splitlines()
    chinese, scripts = ((FIXTURES / name).read_text("utf-8").splitlines() for name in ("chinese.txt", "scripts.txt"))
    library = Path(sysconfig.get_path("stdlib"))
    code = [(library / f"{name}.py").read_text("utf-8") for name in _MODULES.split()]

    def lines(of: Sequence[str], most: int, glue: str) -> str:
        return glue.join(rng.choices(of, k=rng.randint(1, most)))

    def some(of: Sequence[str]) -> str:
        text = rng.choice(of)
        size = int(300 * 2 ** rng.uniform(0, 5))
        at = text.find("\n", rng.randrange(max(1, len(text) - size))) + 1
        return text[at : at + size]

    texts: dict[str, Callable[[], str]] = {
        "miniswe": lambda: rng.choice(miniswe) if len(miniswe) > 100 else some(miniswe),
        "gsm8k": lambda: rng.choice(gsm8k),
        "sonnet": lambda: "Pick the best of these lines:\n" + lines(sonnet, 80, "\n"),
        "chinese": lambda: lines(chinese, 40, rng.choice(["", "\n"])),
        "scripts": lambda: lines(scripts, 12, "\n"),
        "code": lambda: some(code),
    }

    def chat() -> list[dict[str, str]]:
        turns = [{"role": "system", "content": "You are a helpful assistant."}]
        for turn in range(rng.randrange(1, 12)):
            text = texts[rng.choice(["gsm8k", "chinese", "scripts", "code"])]()[:1500]
            turns.append({"role": "assistant" if turn % 2 else "user", "content": text})
        return turns

    chats: dict[str, list[Any]] = {
        kind: [[{"role": "user", "content": text()}] for _ in range(count)] for kind, text in texts.items()
    }
    chats["turns"] = [chat() for _ in range(count)]
    chats["mix"] = [rng.choice(chats[kind]) for kind in rng.choices(list(chats), k=count)]
    return {
        kind: [Sample(_client_json(rng, messages), counter.count_chat(messages)) for messages in many]
        for kind, many in chats.items()
    }


def _client_json(rng: random.Random, messages: object) -> bytes:
    """Clients differ: JavaScript and newer Python clients send UTF-8 without blanks, older ones escape and space."""
    if rng.random() < 0.5:
        return json.dumps(messages, ensure_ascii=False, separators=(",", ":")).encode()
    return json.dumps(messages).encode()


def _records(folder: Path, *patterns: str) -> list[dict[str, Any]]:
    files = sorted(file for pattern in patterns for file in folder.glob(pattern))
    return [json.loads(line) for file in files for line in file.read_text("utf-8").split("\n") if line]
