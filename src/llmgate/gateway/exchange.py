"""One client's request and what has become of it: what the parts of the hot path hand each other."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from llmgate.core.errors import UpstreamError
from llmgate.core.explain import Explanation
from llmgate.core.types import Endpoint, InferenceRequest, TerminationCause, Usage
from llmgate.gateway.client import Client
from llmgate.gateway.edits import Edits
from llmgate.wire.event_edits import EventEditor
from llmgate.wire.headers import Header, RequestHeaders
from llmgate.wire.kinds import KindSpec
from llmgate.wire.openai import Body
from llmgate.wire.sse import SseMeter

if TYPE_CHECKING:
    from llmgate.telemetry.tracing import Trace

Policy = tuple[str, Header]
"""The name of a policy, and the header that says it."""


class Exchange:
    """One client's request and what has become of it so far."""

    request: InferenceRequest
    fields: Body
    spec: KindSpec
    edits: Edits | None = None  # of the last attempt
    endpoint: Endpoint | None = None  # the last one tried
    explanation: Explanation | None = None  # of that choice, if it has one
    explain = False  # the answer is to tell why
    failure: UpstreamError | None = None  # of the last one
    begun = False  # the head of an answer has gone to the client
    kept = False  # something of an answer has come: no other endpoint is asked any more
    ended = False  # the last byte of an answer has been handed to the client
    drained = False  # and it took it at once: there is nothing to wait for
    meter: SseMeter | None = None  # of a streamed answer
    editor: EventEditor | None = None  # of the same, if something is changed in it
    unable: Collection[Endpoint] = ()  # engines that have no path for this kind of request
    status = 0
    dispatched = 0.0
    first_byte: float | None = None
    usage: Usage | None = None
    cause: TerminationCause | None = None  # of the last attempt's end
    trace: Trace | None = None  # if it is recorded

    def __init__(
        self, client: Client, headers: RequestHeaders, request_id: bytes, arrived: float, policy: Policy
    ) -> None:
        self.client = client
        self.policy = policy  # that chooses for it
        self.headers = headers
        self.id = request_id.decode()
        self.id_bytes = request_id
        self.arrived = arrived
        self.tried: list[Endpoint] = []
