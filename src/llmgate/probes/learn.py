"""What an engine is and which models it serves, by asking it."""

from __future__ import annotations

from llmgate.probes.page import Ask, Page, ProbeFailed, answered
from llmgate.wire.engines import CLUES, GENERIC, ModelList, TooManyModels, engine_of_server, parse_models

MODELS_PATH = "/v1/models"


async def detect(ask: Ask) -> str | None:
    """A key of ENGINES; GENERIC when no clue tells, but None when not every clue was to be had.

    Raises ProbeFailed when not one question is answered.
    """
    failure: ProbeFailed | None = None
    server: str | None = None
    for path, engine_of in CLUES:
        try:
            page = await ask(path)
        except ProbeFailed as error:
            failure = failure or error
            continue
        if page.status == 200 and (engine := engine_of(page.body)):
            return engine
        server = server or page.header(b"server")
    if server is None and failure is not None:
        raise failure
    return engine_of_server(server or "") or (GENERIC if failure is None else None)


async def list_models(ask: Ask) -> ModelList:
    """What the engine serves. Raises ProbeFailed when that is nothing."""
    page = await ask(MODELS_PATH)
    if page.status in (401, 403) or page.status >= 500:
        raise answered(MODELS_PATH, page)
    try:
        listed = parse_models(page.body) if page.status == 200 else None
    except TooManyModels as error:
        raise ProbeFailed(f"{MODELS_PATH} {error}") from None
    if listed is None:
        raise ProbeFailed(f"it is not an LLM server: {MODELS_PATH} answered {_what(page)}")
    if not listed.ids:
        raise ProbeFailed(f"{MODELS_PATH} lists no models")
    return listed


def _what(page: Page) -> str:
    if page.status != 200:
        return str(page.status)
    if not page.body.strip():
        return "with an empty page"
    kind = page.header(b"content-type").split(";")[0][:80]
    return f"with {kind if kind and kind.isprintable() else 'something'} that is not a list of models"
