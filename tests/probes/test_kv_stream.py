"""Rules of probes/kv_stream.py."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.core.blocks import BlockIndex
from llmgate.probes.kv_stream import KvStream
from llmgate.wire.kv_events import Message, live_message
from llmgate.wire.token_keys import block_keys, token_seed
from tests.core import make
from tests.probes.kv_make import CLEARED, IDS, SIZE, keys, message, removed, stored
from tests.wire.kv_recorded import session


class Following:
    """A stream of the endpoint in slot 3, and what the index says of it."""

    def __init__(self, *, can_replay: bool = False) -> None:
        self.index = BlockIndex()
        self.endpoint = make.endpoint("e", slot=3)
        self.stream = KvStream(self.index, self.endpoint, lambda: 107.0, can_replay=can_replay)

    def take(self, *messages: Message) -> None:
        for each in messages:
            assert self.stream.take(each) is None

    def held(self, wanted: list[int] | None = None) -> int:
        return self.index.matched(keys() if wanted is None else wanted).get(3, 0)

    @property
    def counts(self) -> dict[str, int]:
        return dict(self.index.counts.get(3, {}))

    @property
    def complete(self) -> bool:
        return self.index.complete(3)


def test_blocks_are_held_from_when_they_are_stored_until_they_are_removed() -> None:
    following = Following()
    following.take(message(0, stored(0, 4)), message(1, stored(4, 6), removed(5)))
    assert following.held() == 5
    assert following.index.live(3) == SIZE
    assert following.index.lags == {3: 6.0}
    following.take(message(2, CLEARED))
    assert following.held() == 0
    assert following.counts == {"stored": 6, "removed": 1, "cleared": 1}


def test_who_hears_an_engines_first_batch_knows_all_of_its_cache() -> None:
    early, late = Following(), Following()
    early.take(message(0, stored(0, 1)))
    late.take(message(8, stored(0, 1)))
    assert (early.complete, late.complete) == (True, False)
    late.take(message(9, CLEARED))
    assert late.complete


def test_blocks_whose_parent_is_not_known_are_left_out_and_counted() -> None:
    following = Following()
    following.take(message(5, stored(4, 6)), message(6, stored(0, 2)))
    assert following.held() == 2
    assert following.counts["left_out"] == 2


def test_without_replay_a_gap_clears_what_was_known() -> None:
    following = Following()
    following.take(message(0, stored(0, 4)), message(2, stored(0, 1)))
    assert following.held() == 1
    assert not following.complete
    assert following.counts["gap"] == 1


def test_a_gap_is_replayed_from_where_it_began() -> None:
    following = Following(can_replay=True)
    following.take(message(0, stored(0, 1)))
    assert following.stream.take(message(3, stored(3, 4))) == 1
    following.stream.replay_from(1)
    for each in (message(1, stored(1, 2)), message(2, stored(2, 3)), message(3, stored(3, 4))):
        following.stream.replayed(each)
    following.stream.replay_ended(whole=True)
    following.take(message(3, stored(3, 4)), message(4, stored(4, 5)))
    assert following.held() == 5
    assert following.complete


def test_a_replay_that_begins_too_late_leaves_only_what_it_brought() -> None:
    following = Following(can_replay=True)
    following.take(message(0, stored(0, 4)))
    assert following.stream.take(message(9)) == 1
    following.stream.replay_from(1)
    following.stream.replayed(message(5, stored(0, 2)))
    following.stream.replay_ended(whole=True)
    assert following.held() == 2
    assert not following.complete


def test_a_replay_that_breaks_off_leaves_nothing_until_more_is_told() -> None:
    following = Following(can_replay=True)
    following.take(message(0, stored(0, 4)))
    following.stream.replay_from(1)
    following.stream.replay_ended(whole=False)
    assert following.held() == 0
    assert following.index.live(3) == 0
    following.take(message(7, stored(0, 2)))
    assert following.held() == 2
    assert following.index.live(3) == SIZE
    assert not following.complete


def test_an_engine_that_has_nothing_to_replay_from_the_beginning_has_an_empty_cache() -> None:
    following = Following(can_replay=True)
    following.stream.replay_from(0)
    following.stream.replay_ended(whole=True)
    assert following.complete


def test_a_replay_of_everything_makes_a_late_comer_know_everything() -> None:
    following = Following(can_replay=True)
    following.stream.replay_from(0)
    for each in (message(0, stored(0, 3)), message(1, removed(2))):
        following.stream.replayed(each)
    following.stream.replay_ended(whole=True)
    assert following.held() == 2
    assert following.complete


def test_a_sequence_that_begins_anew_is_an_engine_that_did() -> None:
    following = Following()
    following.take(message(0, stored(0, 4)), message(1), message(0, stored(0, 2), ts=200.0))
    assert following.held() == 2
    assert following.complete
    assert following.counts["restart"] == 1


def test_an_engine_that_began_anew_a_while_ago_is_replayed_from_its_beginning() -> None:
    following = Following(can_replay=True)
    following.take(*(message(number) for number in range(5)), message(5, stored(0, 4)))
    assert following.stream.take(message(3, stored(9, 10), ts=200.0)) == 0
    assert following.held() == 0


def test_a_batch_that_was_replayed_already_is_passed_over() -> None:
    following = Following()
    following.take(message(0, stored(0, 2)), message(1, removed(1)), message(0, stored(0, 2)))
    assert following.held() == 1


def test_garbage_clears_what_was_known_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    following = Following()
    following.take(message(0, stored(0, 4)))
    with caplog.at_level(logging.WARNING):
        following.take(Message(1, b"\xc1"), Message(2, b"\xc1"))
    assert following.held() == 0
    assert following.index.live(3) == 0
    assert following.counts["garbage"] == 2
    assert [record.message for record in caplog.records] == [
        (
            "e: its KV events cannot be read (a payload that is no batch of KV events: MessagePack data is malformed: "
            "invalid opcode '\\xc1' (byte 0)): what was routed there is judged by instead"
        )
    ]
    following.take(message(3, stored(0, 2)))
    assert following.held() == 2


def test_only_groups_of_full_attention_are_held_and_only_their_removals_count() -> None:
    following = Following()
    following.take(
        message(0, stored(0, 4, group_idx=0, kv_cache_spec_kind="full_attention")),
        message(1, stored(0, 4, group_idx=1, kv_cache_spec_kind="sliding_window"), removed(2, group_idx=1)),
    )
    assert following.held() == 4
    following.take(message(2, removed(3, group_idx=0)))
    assert following.held() == 3


def test_blocks_of_another_size_than_the_caches_are_left_out() -> None:
    following = Following()
    following.take(message(0, stored(0, 2)), message(1, stored(0, 1, size=8)))
    assert following.index.live(3) == SIZE
    assert following.counts["left_out"] == 1


def test_pages_of_single_tokens_are_not_followed(caplog: pytest.LogCaptureFixture) -> None:
    following = Following()
    following.take(message(0, stored(0, 4, size=1)), message(1, stored(4, 8, size=1)))
    assert following.index.live(3) == 0
    assert len(following.index) == 0
    assert ["too small" in record.message for record in caplog.records] == [True]


def test_chains_of_an_adapter_are_held_under_its_public_name() -> None:
    following = Following()
    following.endpoint.models = {"m": "m", "sql-public": "sql"}
    following.take(message(0, stored(0, 4, lora_name="sql", extra_keys=[["sql"]] * 4)))
    assert following.held(keys(name="sql-public")) == 4
    assert following.held(keys()) == 0
    assert following.index.adapters == {"sql-public"}


def test_an_adapter_that_was_loaded_a_moment_ago_goes_by_its_own_name() -> None:
    following = Following()
    following.take(message(0, stored(0, 4, lora_name="new")))
    assert following.held(keys(name="new")) == 4


def test_a_model_that_the_configuration_does_not_give_it_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    following = Following()
    following.endpoint.spec = replace(following.endpoint.spec, models={"m": "m"})
    following.take(message(0, stored(0, 4, lora_name="strange")), message(1, stored(0, 2, lora_name="strange")))
    assert len(following.index) == 0
    assert following.counts["unknown_model"] == 2
    assert [record.message for record in caplog.records] == [
        (
            "e: its KV events tell of 'strange', a model that the configuration does not give it: "
            "what was routed there is judged by instead"
        )
    ]


def test_a_salted_chain_is_held_for_requests_with_the_same_salt() -> None:
    following = Following()
    following.take(message(0, stored(0, 2, extra_keys=[["tenant-1"], None])), message(1, stored(2, 4)))
    assert following.held(keys(salt="tenant-1")) == 4
    assert following.held(keys()) == 0


def test_a_chain_is_held_up_to_its_first_picture() -> None:
    following = Following()
    following.take(
        message(0, stored(0, 4, extra_keys=[None, None, [["picture", 3]], None])),
        message(1, stored(4, 6, extra_keys=[[["picture", -9]], None])),
        message(2, stored(0, 2, ids=IDS[::-1], extra_keys=[[["picture", 0]], None])),
    )
    assert following.held() == 2
    assert len(following.index) == 2
    assert following.counts["left_out"] == 4


@given(
    order=st.lists(st.integers(0, 7), max_size=12),
    junk=st.lists(st.binary(max_size=30), max_size=3),
    can_replay=st.booleans(),
)
def test_whatever_the_order_no_message_breaks_it(order: list[int], junk: list[bytes], can_replay: bool) -> None:
    following = Following(can_replay=can_replay)
    recorded = [live_message(frames) for frames in session().live]
    for position in order:
        if (start := following.stream.take(recorded[position])) is not None:
            following.stream.replay_from(start)
            for each in recorded[start : position + 1]:
                following.stream.replayed(each)
            following.stream.replay_ended(whole=bool(position % 2))
    for number, payload in enumerate(junk):
        following.take(Message(number, payload))
    following.stream.close()
    following.index.sweep(10_000)
    assert len(following.index) == 0


def test_what_vllm_really_sent_says_what_it_really_held() -> None:
    recorded = session()
    following = Following()
    taken = 0
    for step in recorded.steps:
        following.take(*map(live_message, recorded.live[taken : step.messages_before]))
        taken = step.messages_before
        wanted = block_keys(step.token_ids, 32, token_seed("", step.salt))
        held = min(following.held(wanted), (step.prompt_tokens - 1) // 32)
        assert held * 32 == step.cached_tokens, step.name
        assert len(step.token_ids) == step.prompt_tokens
    following.take(*map(live_message, recorded.live[taken:]))
    assert following.held(block_keys(recorded.steps[-1].token_ids, 32, token_seed(""))) == 3
    assert len(following.stream.source.keys) == 3, "the reset emptied the cache before that"
    assert set(following.counts) == {"stored", "removed", "cleared"}
