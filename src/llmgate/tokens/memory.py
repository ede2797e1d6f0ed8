"""What is known of the beginnings of chats, so that of a growing conversation only the new turn is encoded."""

from __future__ import annotations

import secrets
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

ENTRY_BYTES = 500
"""An entry with its place in the table, without its keys and ids: measured, CPython 3.11."""


class Piece(NamedTuple):
    """What a piece adds to the pieces before it."""

    tokens: int
    keys: array[int]  # chain keys of the blocks that end in it
    rest: array[int]  # ids at its end that do not fill a block yet


class PieceMemory:
    """Least recently used beginnings go first, beyond `capacity` bytes. Holds no text: a beginning is known by a chain
    of 64-bit hashes, which a secret of the process seeds. Safe to use from several threads."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._secret = secrets.randbits(64)
        self._pieces: OrderedDict[int, Piece] = OrderedDict()
        self._lock = Lock()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._pieces)

    def names(self, pieces: Sequence[bytes], kind: bytes) -> list[int]:
        """What each piece with all before it is known by, for one `kind` of keys."""
        name = xxh3_64_intdigest(kind, self._secret)
        return [name := xxh3_64_intdigest(piece, name) for piece in pieces]

    def known(self, names: Sequence[int]) -> list[Piece]:
        """The pieces that are known, from the first one on."""
        found: list[Piece] = []
        with self._lock:
            pieces = self._pieces
            for name in names:
                piece = pieces.get(name)
                if piece is None:
                    break
                found.append(piece)
            for name in reversed(names[: len(found)]):  # the first is the last to go
                pieces.move_to_end(name)
        return found

    def keep(self, names: Sequence[int], pieces: Sequence[Piece]) -> None:
        with self._lock:
            for name, piece in zip(reversed(names), reversed(pieces), strict=True):
                if name not in self._pieces:
                    self._pieces[name] = piece
                    self.bytes += _size(piece)
            while self.bytes > self._capacity:
                self.bytes -= _size(self._pieces.popitem(last=False)[1])


def _size(piece: Piece) -> int:
    return ENTRY_BYTES + 8 * len(piece.keys) + 4 * len(piece.rest)
