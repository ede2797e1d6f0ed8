"""The synthetic workloads: each a function of a seed and keyword parameters, which are its options."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import islice
from random import Random

from llmgate.workloads.arrivals import arrivals
from llmgate.workloads.distributions import lengths, zipf
from llmgate.workloads.edits import ordered
from llmgate.workloads.options import check
from llmgate.workloads.types import TraceRequest

BLOCK_TOKENS = 16
"""vLLM's default block size."""

NOMINAL_TPOT = 0.02
"""Seconds a token, by which the `at` of later turns is guessed; what happens is up to the engines."""


def uniform(
    *,
    seed: int,
    requests: int = 1000,
    rate: float = 10.0,
    cv: float = 1.0,
    prompt_min: int = 64,
    prompt_max: int = 2048,
    output_min: int = 16,
    output_max: int = 512,
) -> list[TraceRequest]:
    """Independent requests, prompts and answers of any length between two bounds alike."""
    check(1 <= prompt_min <= prompt_max, "prompt_min", "must be from 1 to prompt_max")
    check(1 <= output_min <= output_max, "output_min", "must be from 1 to output_max")
    random = Random(f"{seed}:lengths")
    return [
        TraceRequest(at, random.randint(prompt_min, prompt_max), random.randint(output_min, output_max))
        for at in _times(seed, requests, rate, cv)
    ]


def poisson(
    *,
    seed: int,
    requests: int = 1000,
    rate: float = 10.0,
    prompt_tokens: float = 1024,
    output_tokens: float = 256,
    spread: float = 1.0,
) -> list[TraceRequest]:
    """Independent requests at random times, log-normal in length: means in tokens, `spread` is std/mean."""
    return gamma(
        seed=seed,
        requests=requests,
        rate=rate,
        cv=1.0,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        spread=spread,
    )


def gamma(
    *,
    seed: int,
    requests: int = 1000,
    rate: float = 10.0,
    cv: float = 3.0,
    prompt_tokens: float = 1024,
    output_tokens: float = 256,
    spread: float = 1.0,
) -> list[TraceRequest]:
    """As `poisson`, but in bursts: `cv` is the coefficient of variation of the gaps between arrivals."""
    prompt = lengths(Random(f"{seed}:prompts"), "prompt_tokens", prompt_tokens, spread)
    output = lengths(Random(f"{seed}:outputs"), "output_tokens", output_tokens, spread)
    return [TraceRequest(at, prompt(), output()) for at in _times(seed, requests, rate, cv)]


def shared_prompts(
    *,
    seed: int,
    requests: int = 1000,
    rate: float = 10.0,
    cv: float = 1.0,
    prompts: int = 8,
    skew: float = 1.0,
    system_tokens: int = 2000,
    user_tokens: float = 300,
    output_tokens: float = 200,
    spread: float = 1.0,
) -> list[TraceRequest]:
    """One-turn requests below one of a few system prompts of `system_tokens` each, chosen by Zipf's law (`skew`)."""
    return [
        request
        for _, request in _below_system_prompts(
            seed, requests, rate, cv, prompts, skew, system_tokens, user_tokens, output_tokens, spread, "prompts"
        )
    ]


def skewed_tenants(
    *,
    seed: int,
    requests: int = 1000,
    rate: float = 10.0,
    cv: float = 1.0,
    tenants: int = 20,
    skew: float = 1.2,
    system_tokens: int = 1000,
    user_tokens: float = 500,
    output_tokens: float = 200,
    spread: float = 1.0,
) -> list[TraceRequest]:
    """Tenants with a system prompt each, the first of them far busier than the last (Zipf, `skew`)."""
    found = []
    for tenant, request in _below_system_prompts(
        seed, requests, rate, cv, tenants, skew, system_tokens, user_tokens, output_tokens, spread, "tenants"
    ):
        request.tenant = f"tenant-{tenant}"
        found.append(request)
    return found


def long_context(
    *,
    seed: int,
    requests: int = 1000,
    rate: float = 5.0,
    cv: float = 1.0,
    prompt_tokens: float = 1000,
    long_tokens: float = 32_000,
    long_share: float = 0.1,
    output_tokens: float = 200,
    spread: float = 0.5,
) -> list[TraceRequest]:
    """Short requests with a share of long ones (`long_share`, 0..1) among them, which block an engine for seconds."""
    check(0 <= long_share <= 1, "long_share", "must be from 0 to 1")
    random = Random(f"{seed}:prompts")
    short = lengths(random, "prompt_tokens", prompt_tokens, spread)
    long = lengths(random, "long_tokens", long_tokens, spread)
    output = lengths(Random(f"{seed}:outputs"), "output_tokens", output_tokens, spread)
    return [
        TraceRequest(at, long() if random.random() < long_share else short(), output())
        for at in _times(seed, requests, rate, cv)
    ]


def multi_turn(
    *,
    seed: int,
    requests: int = 1000,
    rate: float = 1.0,
    cv: float = 1.0,
    turns: int = 8,
    think_s: float = 10.0,
    prompts: int = 4,
    skew: float = 1.0,
    system_tokens: int = 512,
    user_tokens: float = 200,
    output_tokens: float = 200,
    spread: float = 1.0,
    max_context: int = 32_768,
) -> list[TraceRequest]:
    """Conversations in a closed loop: `rate` begin a second, each of 1 to 2·`turns`-1 turns, as likely each.

    A turn's prompt is a shared system prompt (one of `prompts`, Zipf) and all that was said before: messages of
    `user_tokens` and answers of `output_tokens`. It comes an exponential time of mean `think_s` after the answer
    before it. A conversation that would not fit into `max_context` tokens ends. Of all turns, the first `requests`.
    """
    check(turns >= 1, "turns", "must be at least 1")
    check(think_s >= 0, "think_s", "must not be negative")
    systems = _system_prompts(prompts, system_tokens)
    check(max_context > system_tokens, "max_context", "must be above system_tokens")
    choose = zipf(Random(f"{seed}:systems"), prompts, skew)
    random = Random(f"{seed}:turns")
    user = lengths(Random(f"{seed}:users"), "user_tokens", user_tokens, spread)
    output = lengths(Random(f"{seed}:outputs"), "output_tokens", output_tokens, spread)
    found: list[TraceRequest] = []
    begins: list[float] = []  # of turns that are not past when a conversation begins: a heap
    fresh, past = prompts * (system_tokens // BLOCK_TOKENS), 0
    for number, begin in enumerate(_times(seed, requests, rate, cv)):
        while begins and begins[0] <= begin:
            heappop(begins)
            past += 1
        if past >= requests:
            break
        said = _turns(random.randint(1, 2 * turns - 1), user, output, system_tokens, max_context)
        system = systems[choose()]
        own = max(0, sum(said[-1]) // BLOCK_TOKENS - len(system)) if said else 0
        shared = memoryview(array("Q", (*system, *range(fresh, fresh + own))))
        fresh += own
        at = begin
        for turn, (prompt, answer) in enumerate(said):
            think = random.expovariate(1 / think_s) if turn and think_s else 0.0
            at += think
            heappush(begins, at)
            found.append(
                TraceRequest(
                    at,
                    prompt,
                    answer,
                    blocks=shared[: (prompt + answer) // BLOCK_TOKENS],
                    session=f"conversation-{number}",
                    after=len(found) - 1 if turn else None,
                    think_s=think,
                )
            )
            at += answer * NOMINAL_TPOT
    check(bool(found), "max_context", "leaves room for no turn")
    return ordered(found)[:requests]


def _times(seed: int, requests: int, rate: float, cv: float) -> Iterator[float]:
    check(1 <= requests <= 100_000_000, "requests", "must be from 1 to 100,000,000")
    return islice(arrivals(Random(f"{seed}:arrivals"), rate, cv), requests)


def _system_prompts(count: int, tokens: int) -> list[tuple[int, ...]]:
    """Chain ids from 0 on, none of them shared."""
    check(1 <= count <= 1_000_000, "prompts", "must be from 1 to 1,000,000")
    check(0 <= tokens <= 10_000_000, "system_tokens", "must be from 0 to 10,000,000")
    blocks = tokens // BLOCK_TOKENS
    return [tuple(range(k * blocks, (k + 1) * blocks)) for k in range(count)]


def _turns(
    count: int, user: Callable[[], int], output: Callable[[], int], context: int, max_context: int
) -> list[tuple[int, int]]:
    """(prompt, answer) of up to `count` turns, the prompts beginning with `context` tokens and all before them."""
    turns = []
    for _ in range(count):
        said, answered = user(), output()
        if context + said + answered > max_context:
            break
        turns.append((context + said, answered))
        context += said + answered
    return turns


def _below_system_prompts(
    seed: int,
    requests: int,
    rate: float,
    cv: float,
    count: int,
    skew: float,
    system_tokens: int,
    user_tokens: float,
    output_tokens: float,
    spread: float,
    option: str,
) -> Iterator[tuple[int, TraceRequest]]:
    """(number of the system prompt, request)."""
    check(1 <= count <= 1_000_000, option, "must be from 1 to 1,000,000")
    systems = _system_prompts(count, system_tokens)
    choose = zipf(Random(f"{seed}:systems"), count, skew)
    user = lengths(Random(f"{seed}:users"), "user_tokens", user_tokens, spread)
    output = lengths(Random(f"{seed}:outputs"), "output_tokens", output_tokens, spread)
    for at in _times(seed, requests, rate, cv):
        system = choose()
        yield system, TraceRequest(at, system_tokens + user(), output(), blocks=systems[system])
