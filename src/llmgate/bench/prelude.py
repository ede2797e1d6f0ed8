"""What is found out before the load: who is there, which model, what the server takes, how it counts our words."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from llmgate.bench.body import CHAT, PATHS, BodyForm
from llmgate.bench.client import EndpointClient
from llmgate.bench.errors import BenchError
from llmgate.bench.prompts import PromptWriter, Sizing, fit
from llmgate.bench.record import Record
from llmgate.core.errors import UpstreamError
from llmgate.upstream.base import Target

SAMPLE_WORDS = (32, 512, 512, 512)  # short enough for most contexts
MOST_SHOWN = 8


def parse_url(url: str) -> Target:
    """The server of a URL that is given with or without `/v1`, or with the path of chat or completions after it.

    Raises BenchError.
    """
    bare = url.strip().rstrip("/")
    for path in (*(each.decode() for each in PATHS.values()), "/v1"):
        bare = bare.removesuffix(path)
    try:
        return Target.parse(bare)
    except ValueError as error:
        raise BenchError(f"{error}; give something like http://127.0.0.1:8080") from None


async def find_models(endpoint: EndpointClient, wanted: str | None, url: str) -> list[str]:
    """The served models, the one to use first.

    Raises BenchError if the server cannot be reached, refuses the key, serves none, not the wanted one, or several and
    none is wanted.
    """
    try:
        status, body = await endpoint.fetch("GET", b"/v1/models")
    except UpstreamError as error:
        raise BenchError(f"{url} does not answer: {error}; start the server or correct the URL") from None
    if status in (401, 403):
        raise BenchError(f"{url} refuses the key ({status}): set OPENAI_API_KEY or give --api-key")
    served = _names(body) if status == 200 else None
    if served is None:
        if wanted:
            return [wanted]
        raise BenchError(f"{url} has no list of models at /v1/models (status {status}): name one with --model")
    if not served:
        raise BenchError(f"{url} serves no model: wait until it has loaded one")
    if wanted is None:
        if len(served) > 1:
            raise BenchError(f"{url} serves several models ({_listed(served)}): choose one with --model")
        return served
    if wanted not in served:
        near = difflib.get_close_matches(wanted, served, MOST_SHOWN) or served
        raise BenchError(f"{url} does not serve {wanted!r}; there are: {_listed(near)}")
    return [wanted, *(name for name in served if name != wanted)]


async def find_form(
    endpoint: EndpointClient, form: BodyForm, model: str, writer: PromptWriter
) -> tuple[BodyForm, Sizing | None, list[str]]:
    """What of `form` the server takes, how it counts words (None: it does not tell), and what was found, in sentences.

    Sends four to eight small requests. Raises BenchError if none is answered.
    """
    chosen, record = form, Record(0, 0.0)
    for number, chosen in enumerate(_forms(form)):
        record = await _try(endpoint, chosen, model, writer.sample(SAMPLE_WORDS[0], number))
        if record.error not in ("http_400", "http_422"):
            break
    if record.error is not None:
        raise BenchError(_refusal(record, chosen))
    samples = [(SAMPLE_WORDS[0], record.prompt_tokens)]
    for number, words in enumerate(SAMPLE_WORDS[1:], 100):
        record = await _try(endpoint, chosen, model, writer.sample(words, number))
        samples.append((words, record.prompt_tokens))
    notes = [f"the server refuses {name}: it was left out" for name in _dropped(form, chosen)]
    told = [(words, tokens) for words, tokens in samples if tokens]
    try:
        return chosen, fit(told, "usage") if len(told) == len(samples) else None, notes
    except ValueError:  # StatisticsError too
        return chosen, None, notes


async def _try(endpoint: EndpointClient, form: BodyForm, model: str, prompt: bytes) -> Record:
    record = Record(0, 0.0, streamed=form.stream)
    await endpoint.measure(record, form.path, form.body(model, prompt, 1))
    return record


def _forms(form: BodyForm) -> Iterator[BodyForm]:
    """With ever less in it that a server might not know."""
    yield form
    plain = replace(form, ignore_eos=False)
    if form.ignore_eos:
        yield plain
    if form.stream and form.usage:
        yield replace(form, usage=False)
        if form.ignore_eos:
            yield replace(plain, usage=False)
    if form.endpoint == CHAT:
        yield replace(plain, limit="max_completion_tokens")


def _dropped(asked: BodyForm, chosen: BodyForm) -> Iterator[str]:
    if asked.ignore_eos and not chosen.ignore_eos:
        yield "ignore_eos (answers may be shorter than asked for)"
    if asked.usage and not chosen.usage:
        yield "stream_options"
    if asked.limit != chosen.limit:
        yield asked.limit


def _refusal(record: Record, form: BodyForm) -> str:
    said = f": {record.message}" if record.message else ""
    path = form.path.decode()
    if record.error in ("http_401", "http_403"):
        return f"{path} refuses the key ({record.error[5:]}): set OPENAI_API_KEY or give --api-key"
    if record.error in ("http_404", "http_405"):
        other = "completions" if form.endpoint == CHAT else "chat"
        return f"{path} is not served{said}: try --endpoint {other}"
    return f"a first request to {path} failed ({record.error}{said}): nothing was measured"


def _names(body: bytes) -> list[str] | None:
    try:
        listed: Any = msgspec.json.decode(body)
        return [str(model["id"]) for model in listed["data"]]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
        return None


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MOST_SHOWN])
    return shown + (f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else "")
