"""The names that the server answers to: the model, and LoRA adapters that come and go."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from llmgate.sim.http_engine.errors import Refused, not_found

PERMISSION = {
    "object": "model_permission",
    "allow_create_engine": False,
    "allow_sampling": True,
    "allow_logprobs": True,
    "allow_search_indices": False,
    "allow_view": True,
    "allow_fine_tuning": False,
    "organization": "*",
    "group": None,
    "is_blocking": False,
}


@dataclass(frozen=True, slots=True)
class Adapter:
    id: int  # from 1
    name: str
    path: str


class LoadAdapter(msgspec.Struct):
    lora_name: str
    lora_path: str
    load_inplace: bool = False


class UnloadAdapter(msgspec.Struct):
    lora_name: str


class Models:
    def __init__(self, model: str, max_model_len: int, adapters: Mapping[str, str]) -> None:
        self.model = model
        self._max_model_len = max_model_len
        self._last_id = 0
        self._adapters: dict[str, Adapter] = {}
        for name, path in adapters.items():
            self.load(LoadAdapter(name, path))

    def __len__(self) -> int:
        """Adapters."""
        return len(self._adapters)

    def find(self, name: str | None) -> Adapter | None:
        """The adapter that a request asks for, or None: the model itself. Raises Refused."""
        if not name or name == self.model:
            return None
        if name not in self._adapters:
            aliases = ", ".join([self.model, *self._adapters])
            raise not_found(f"The model `{name}` does not exist. Valid aliases: {aliases}.", "model")
        return self._adapters[name]

    def listed(self) -> bytes:
        """/v1/models."""
        base = self._card(self.model, self.model, None) | {"max_model_len": self._max_model_len}
        cards = [base, *(self._card(each.name, each.path, self.model) for each in self._adapters.values())]
        return msgspec.json.encode({"object": "list", "data": cards})

    def load(self, wanted: LoadAdapter) -> bytes:
        """What vLLM says to it. Any path will do: there are no weights. Raises Refused."""
        name, path = wanted.lora_name, wanted.lora_path
        if not name or not path:
            raise _bad("Both 'lora_name' and 'lora_path' must be provided.")
        if name == self.model:
            raise _bad(f"The lora adapter '{name}' conflicts with a served base model.")
        if name in self._adapters and not wanted.load_inplace:
            raise _bad(
                f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set "
                "'load_inplace' to True."
            )
        known = self._adapters.get(name)
        if known is None:
            self._last_id += 1
        self._adapters[name] = Adapter(known.id if known else self._last_id, name, path)
        return f"Success: LoRA adapter '{name}' added successfully.".encode()

    def unload(self, wanted: UnloadAdapter) -> bytes:
        """What vLLM says to it. Raises Refused."""
        name = wanted.lora_name
        if not name:
            raise _bad("'lora_name' needs to be provided to unload a LoRA adapter.")
        if name not in self._adapters:
            raise not_found(f"The lora adapter '{name}' cannot be found.")
        del self._adapters[name]
        return f"Success: LoRA adapter '{name}' removed successfully.".encode()

    def _card(self, name: str, root: str, parent: str | None) -> dict[str, Any]:
        created = int(time.time())
        permission = {"id": f"modelperm-{name}", "created": created, **PERMISSION}
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "vllm",
            "root": root,
            "parent": parent,
            "max_model_len": None,
            "permission": [permission],
        }


def _bad(message: str) -> Refused:
    return Refused(400, "InvalidUserInput", message)
