"""What ties the requests of one conversation together, for routers that keep conversations where they were."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from xxhash import xxh3_128_hexdigest

from llmgate.wire.headers import Header, find
from llmgate.wire.openai import Body

LONGEST = 128
"""Characters of a key. A longer one is represented by its hash: keys are kept by the hundred thousand."""


class _Metadata(msgspec.Struct):
    session_id: msgspec.Raw = msgspec.Raw(b"")


_metadata = msgspec.json.Decoder(_Metadata)
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def session_key(headers: Iterable[Header], body: Body) -> str | None:
    """The first of these that is there: the header `x-session-id`; of the body `prompt_cache_key`, `session_id`,
    `conversation_id`, `metadata.session_id`, `user`. Text and numbers count, nothing else does."""
    header = find(headers, b"x-session-id")
    if header and header.strip():
        return _bounded(header.decode("latin-1").strip())
    for raw in (body.prompt_cache_key, body.session_id, body.conversation_id):
        if key := _text(raw):
            return _bounded(key)
    if body.metadata:
        try:
            nested = _text(_metadata.decode(body.metadata).session_id)
        except _UNDECODABLE:
            nested = None
        if nested:
            return _bounded(nested)
    return _bounded(user) if (user := _text(body.user)) else None


def _text(raw: msgspec.Raw) -> str | None:
    if not raw:
        return None
    try:
        value = msgspec.json.decode(raw)
    except _UNDECODABLE:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else None


def _bounded(key: str) -> str:
    return key if len(key) <= LONGEST else xxh3_128_hexdigest(key.encode())
