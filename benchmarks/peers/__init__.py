"""Other gateways' routing rules as routers of ours, to be judged on the same workloads: rows of

    llmgate simulate --policy benchmarks.peers.smg:CacheAware …

Written from the projects' documentation and sources; none of their code is copied. What all of them have in common:

- A rule is restated at its defaults, with what its project would see: requests in flight are `Load.requests`, queue and
  KV usage are `Endpoint.metrics` (scraped), and no rule knows `Endpoint.weight` or llmgate's counts of tokens.
- Prompts are seen as the chain keys of core/prefix.py. A key stands for 256 bytes of prompt among the first 4096, for
  1024 after them; a project that looks at characters, chunks or blocks of its own is given as many of these as a key
  covers (blocks.py). So its matches are rounded down, by less than 1024 bytes; those of llmgate's routers are too.
- Where a rule goes by position in a list, that is the order of slots, in which the endpoints were configured.
- Health checks, retries, breakers and queues of the projects are not judged: all rows have llmgate's.
"""

from __future__ import annotations

PEERS = {
    "smg cache_aware": "benchmarks.peers.smg:CacheAware",
    "smg power_of_two": "benchmarks.peers.smg:PowerOfTwo",
    "vllm-router cache_aware": "benchmarks.peers.vllm_router:CacheAware",
    "production-stack prefixaware": "benchmarks.peers.production_stack:PrefixAware",
    "production-stack session": "benchmarks.peers.production_stack:Session",
    "llm-d default": "benchmarks.peers.llm_d:DefaultScorers",
    "Dynamo KV": "benchmarks.peers.dynamo:KvEvents",
    "Dynamo KV, no events": "benchmarks.peers.dynamo:KvCost",
    "AIBrix prefix-cache": "benchmarks.peers.aibrix:PrefixCache",
}
"""Label of a row → what `--policy` takes."""
