"""All sequences that an engine decodes, moved many steps at a time.

While nobody joins or leaves, a step differs from the one before only in what it reads of the KV cache: one token more
for each sequence. So the time of m steps is an arithmetic series, the blocks that they need follow from how many
sequences stand at which place of a block, and who finishes next is the top of a heap.
"""

from __future__ import annotations

import heapq
import math

from llmgate.engines.profile import EngineProfile
from llmgate.engines.sequence import Sequence, State


class DecodeBatch:
    """Sequences that each produce one token a step, and the time that this takes.

    Times are counted from the last change of the batch (`begin`), never from the last call, so that looking at it more
    often does not change them by a single bit.
    """

    def __init__(self, profile: EngineProfile) -> None:
        self._profile = profile
        self._block = profile.block_tokens
        self.steps = 0  # since the engine was made
        self.size = 0
        self.read = 0  # tokens of KV cache that the next step reads
        self._phases = [0] * self._block  # sequences by the step, modulo block size, that needs a new block for them
        self._finishing: list[tuple[int, int, Sequence]] = []
        self._filling: list[tuple[int, int, Sequence]] = []
        self.expected: dict[int, int] = {}  # chain ids of blocks that will be filled → by how many sequences
        self._begun_at, self._begun_step, self._begun_read = 0.0, 0, 0

    def join(self, sequence: Sequence) -> None:
        """It has computed all that it has and sampled a token, which the next step computes."""
        request = sequence.request
        sequence.state = State.DECODE
        sequence.joined = self.steps
        sequence.finish = self.steps + request.output_tokens - sequence.generated
        self.size += 1
        self.read += sequence.computed + 1
        self._phases[self._phase(sequence)] += 1
        heapq.heappush(self._finishing, (sequence.finish, sequence.order, sequence))
        for key in sequence.ids[sequence.named :]:
            self.expected[key] = self.expected.get(key, 0) + 1
        self._watch_block(sequence)

    def leave(self, sequence: Sequence) -> None:
        """Its counts are what the last step left."""
        phase = self._phase(sequence)
        for key in sequence.ids[sequence.named :]:
            self._expect_no_more(key)
        done = self.steps - sequence.joined
        sequence.computed += done
        sequence.generated += done
        sequence.joined = self.steps
        self.size -= 1
        self.read -= sequence.computed + 1
        self._phases[phase] -= 1

    def crosses(self, sequence: Sequence) -> bool:
        """Whether the next step needs a new block for it."""
        return self._phase(sequence) == (self.steps + 1) % self._block

    def begin(self, at: float) -> None:
        """The batch has changed; its next step begins at `at` (s) at the earliest."""
        self._begun_at, self._begun_step, self._begun_read = at, self.steps, self.read

    def end_of(self, step: int) -> float:
        """When `step` ends if nobody joins or leaves (s)."""
        profile, steps = self._profile, step - self._begun_step
        read = self._begun_read * steps + self.size * (steps * (steps - 1) // 2)
        return self._begun_at + steps * (profile.step_s + profile.sequence_s * self.size) + profile.kv_token_s * read

    def steps_until(self, now: float, most: int) -> int:
        """How many steps from here, but `most`, end at `now` or before."""
        if self.end_of(self.steps + most) <= now:
            return most
        guess = self._solve(now - self._begun_at) - (self.steps - self._begun_step)
        guess = min(max(guess, 0), most)
        while guess > 0 and self.end_of(self.steps + guess) > now:
            guess -= 1
        while guess < most and self.end_of(self.steps + guess + 1) <= now:
            guess += 1
        return guess

    def _solve(self, within: float) -> int:
        """The largest count of steps from `begin` that takes `within` s, up to rounding: the root of
        kv·size/2 · m² + (step + kv·(read − size/2)) · m = within."""
        profile = self._profile
        square = profile.kv_token_s * self.size / 2
        linear = profile.step_s + profile.sequence_s * self.size + profile.kv_token_s * self._begun_read - square
        return int(2 * within / (linear + math.sqrt(linear * linear + 4 * square * within))) if within > 0 else 0

    def next_finish(self) -> int:
        """The step that produces somebody's last token; the batch must not be empty."""
        while self._stale(self._finishing[0]):
            heapq.heappop(self._finishing)
        return self._finishing[0][0]

    def blocks_for(self, steps: int) -> int:
        """New blocks that the next `steps` steps need."""
        whole, rest = divmod(steps, self._block)
        first = self.steps + 1
        return whole * self.size + sum(self._phases[step % self._block] for step in range(first, first + rest))

    def steps_with(self, free: int, most: int) -> int:
        """How many steps, but `most`, can be had with so many new blocks."""
        if self.size * (most // self._block + 1) <= free:
            return most
        whole = free // self.size
        free -= whole * self.size
        steps = whole * self._block
        while steps < most:
            free -= self._phases[(self.steps + steps + 1) % self._block]
            if free < 0:
                break
            steps += 1
        return min(steps, most)

    def advance(self, steps: int) -> None:
        self.steps += steps
        self.read += self.size * steps

    def finished(self) -> list[Sequence]:
        """Those whose last token the steps so far have produced, by step and arrival. They have left."""
        done = []
        while self._finishing and self._finishing[0][0] <= self.steps:
            entry = heapq.heappop(self._finishing)
            if not self._stale(entry):
                self.leave(entry[2])
                entry[2].state = State.ENDED
                done.append(entry[2])
        return done

    def filled(self) -> list[tuple[int, Sequence, int]]:
        """(step, sequence, chain id) for blocks that sequences have filled with answer since the last call; to be asked
        before `finished`."""
        done = []
        while self._filling and self._filling[0][0] <= self.steps:
            step, _, sequence = heapq.heappop(self._filling)
            if sequence.state is State.DECODE and self._fills_at(sequence) == step:
                key = sequence.ids[sequence.named]
                done.append((step, sequence, key))
                self._expect_no_more(key)
                sequence.named += 1
                self._watch_block(sequence)
        return done

    def _expect_no_more(self, key: int) -> None:
        self.expected[key] -= 1
        if not self.expected[key]:
            del self.expected[key]

    def _phase(self, sequence: Sequence) -> int:
        return (sequence.joined + 1 - sequence.computed) % self._block

    def _fills_at(self, sequence: Sequence) -> int:
        return sequence.joined + (sequence.named + 1) * sequence.block_tokens - sequence.computed

    def _watch_block(self, sequence: Sequence) -> None:
        if sequence.named < len(sequence.ids):
            step = self._fills_at(sequence)
            if step <= sequence.finish:
                heapq.heappush(self._filling, (step, sequence.order, sequence))

    @staticmethod
    def _stale(entry: tuple[int, int, Sequence]) -> bool:
        return entry[2].state is not State.DECODE or entry[2].finish != entry[0]
