"""What is changed in a request on its way to one endpoint, and in its answer on the way back. The rest passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec

from llmgate.core.types import Endpoint, InferenceRequest
from llmgate.wire.assemble import Assembly
from llmgate.wire.engines import EngineKind, make_of
from llmgate.wire.event_edits import WITHOUT_USAGE_CHUNK, Edit, renaming
from llmgate.wire.kinds import KindSpec
from llmgate.wire.openai import Body, insert_field, replace_field

INCLUDE_USAGE = b'{"include_usage":true}'

Inject = Literal["auto", "always", "never"]


@dataclass(frozen=True, slots=True)
class EditRules:
    """What configuration says of it.

    `inject_usage`: whether streams are asked for their usage where the client did not; `auto` asks engines whose make
    is known to take the question. `answer_model`: whether answers get the name that the client asked for.
    """

    inject_usage: Inject = "auto"
    answer_model: bool = False

    def injects(self, make: EngineKind) -> bool:
        return self.inject_usage == "always" or (self.inject_usage == "auto" and make.takes_stream_options)


class Edits(NamedTuple):
    """For one attempt."""

    body: bytes  # of the request
    answer: Sequence[Edit] = ()  # of the answer's events, or of the whole of it
    assembly: Assembly | None = None  # the answer comes as a stream, and the client is to get it whole


def edits_for(
    rules: EditRules, spec: KindSpec, request: InferenceRequest, fields: Body, body: bytes, endpoint: Endpoint
) -> Edits | None:
    """`body` is as the client sent it. None: it goes as it is, and so does the answer. Raises nothing."""
    asked, public = fields.model, request.model
    served = endpoint.models.get(public, public)
    make = make_of(endpoint.engine)
    if request.stream:
        asks_usage, carried = spec.takes_stream_options and rules.injects(make), False
    else:
        asks_usage, carried = False, make.ignores_disconnects and spec.assembly is not None
    renamed = served != (public if asked is None else asked)
    if not (asks_usage or carried or renamed or rules.answer_model):
        return None
    answer: list[Edit] = []
    assembly: Assembly | None = None
    edited: bytes | None
    if renamed:
        body = fields.renamed(body, served)
    if rules.answer_model and served != (asked or public):
        answer.append(renaming(served, asked or public))
    if asks_usage and (edited := _asking_for_usage(fields, body)) is not None:
        body = edited
        answer.append(WITHOUT_USAGE_CHUNK)
    if carried and spec.assembly is not None and (edited := _carried_as_stream(spec, fields, body)) is not None:
        body, assembly = edited, spec.assembly()
        assembly.model = served
    return Edits(body, answer, assembly)


def _carried_as_stream(spec: KindSpec, fields: Body, body: bytes) -> bytes | None:
    """The body of the same request, streamed. None where the client's `stream` is neither yes nor no: that is for the
    engine to refuse."""
    if not fields.stream_field:
        body = insert_field(body, "stream", b"true")
    elif bytes(fields.stream_field) in (b"false", b"null"):
        body = replace_field(body, "stream", b"true")
    else:
        return None
    return (_asking_for_usage(fields, body) or body) if spec.takes_stream_options else body


def _asking_for_usage(fields: Body, body: bytes) -> bytes | None:
    """The body with `stream_options.include_usage`; None if it asks already, or in a way that is no way to ask."""
    given = bytes(fields.stream_options)
    if not given:
        return insert_field(body, "stream_options", INCLUDE_USAGE)
    if given == b"null":
        return replace_field(body, "stream_options", INCLUDE_USAGE)
    try:
        options = msgspec.json.decode(given, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return None
    if bytes(options.get("include_usage", b"")) == b"true":
        return None
    # running counts in every chunk, which vLLM gives only to those who ask for usage: they would stay in the answer
    options.pop("continuous_usage_stats", None)
    options["include_usage"] = msgspec.Raw(b"true")
    return replace_field(body, "stream_options", msgspec.json.encode(options))
