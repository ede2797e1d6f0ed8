"""What can be made to go wrong, at the start or while it runs (`POST /sim/faults`)."""

from __future__ import annotations

import difflib
import random
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shares are of completion requests, drawn in the order fail, reject, stall. Nothing goes wrong by default."""

    fail_rate: _Share = 0.0  # answered with a 500
    reject_rate: _Share = 0.0  # answered with `reject_status`, as an engine that is full
    reject_status: Literal[429, 503] = 503
    stall_rate: _Share = 0.0  # taken and never answered, not even by a head
    break_after: Annotated[int, msgspec.Meta(ge=1)] | None = None  # streams are cut after so many events
    slowdown: Annotated[float, msgspec.Meta(gt=0)] = 1.0  # every step takes so many times as long
    crash: bool = False  # the process ends now
    crash_at_s: Annotated[float, msgspec.Meta(ge=0)] | None = None  # or after so many seconds from now


Fate = Literal["serve", "fail", "reject", "stall"]


class Dice:
    """Draws what becomes of each request; the same seed, the same order of fates."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def fate(self, faults: Faults) -> Fate:
        fates: tuple[tuple[Fate, float], ...] = (
            ("fail", faults.fail_rate),
            ("reject", faults.reject_rate),
            ("stall", faults.stall_rate),
        )
        return next((fate for fate, rate in fates if rate and self._random.random() < rate), "serve")


def changed(faults: Faults, change: bytes) -> Faults:
    """These, with what a JSON object names. Raises msgspec.DecodeError (ValidationError is one)."""
    named = msgspec.json.decode(change, type=dict[str, msgspec.Raw])
    kept = {name: value for name, value in msgspec.structs.asdict(faults).items() if name not in named}
    return msgspec.convert(kept | {name: msgspec.json.decode(raw) for name, raw in named.items()}, Faults)


def parse_faults(options: Iterable[str]) -> Faults:
    """Of `NAME=VALUE` each, names as Faults has them. Raises ValueError with what is wrong."""
    faults = Faults()
    for option in options:
        name, _, value = option.partition("=")
        name = name.strip().replace("-", "_")
        if name not in Faults.__struct_fields__:
            near = difflib.get_close_matches(name, Faults.__struct_fields__, 3, 0.5) or Faults.__struct_fields__
            raise ValueError(f"there is no fault {name!r}; did you mean {', '.join(near)}?")
        try:
            faults = changed(faults, f'{{"{name}": {value.strip()}}}'.encode())
        except msgspec.DecodeError as error:
            raise ValueError(f"fault {option!r}: {str(error).partition(' - at')[0]}") from None
    return faults
