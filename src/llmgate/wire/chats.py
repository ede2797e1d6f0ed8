"""The prompts of all kinds of request as the three that a tokenizer can count: a chat, a completion's, an input.

Engines turn responses and messages into chats in much this way before they apply the model's template. Raises KeyError,
TypeError or AttributeError on what is not of the API's shape.
"""

from __future__ import annotations

from typing import Any

from llmgate.core.types import Kind

Json = dict[str, Any]
Counted = tuple[Kind, Json]


def chat(fields: Json) -> Counted:
    return Kind.CHAT, fields


def completion(fields: Json) -> Counted:
    return Kind.COMPLETION, {"prompt": fields.get("prompt_field")}


def embedding(fields: Json) -> Counted:
    return Kind.EMBEDDING, fields


def generation(fields: Json) -> Counted:
    """TGI's, and SGLang's, which may be token ids."""
    prompt = next((fields[name] for name in ("inputs", "text", "input_ids") if name in fields), None)
    return Kind.COMPLETION, {"prompt": prompt}


def responses(fields: Json) -> Counted:
    """OpenAI's responses."""
    turns: list[Json] = []
    if fields.get("instructions"):
        turns.append({"role": "system", "content": fields["instructions"]})
    given = fields["input"]
    for item in [{"role": "user", "content": given}] if isinstance(given, str) else given:
        match item.get("type", "message"):
            case "message":
                turns.append({"role": item["role"], "content": _texts(item["content"])})
            case "function_call":
                turns.append(_call(item["call_id"], item["name"], item["arguments"]))
            case "function_call_output":
                turns.append({"role": "tool", "tool_call_id": item["call_id"], "content": _texts(item["output"])})
    tools = [{"type": "function", "function": tool} for tool in fields.get("tools") or () if tool.get("name")]
    return _chat(turns, tools, fields)


def messages(fields: Json) -> Counted:
    """Anthropic's messages."""
    turns: list[Json] = []
    if fields.get("system"):
        turns.append({"role": "system", "content": _texts(fields["system"])})
    for message in fields["messages"]:
        role, content = message["role"], message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        texts = [block for block in blocks if "text" in block]
        if texts:
            turns.append({"role": role, "content": _texts(texts)})
        for block in blocks:
            if block["type"] == "tool_use":
                turns.append(_call(block["id"], block["name"], block["input"]))
            elif block["type"] == "tool_result":
                said = _texts(block.get("content") or "")
                turns.append({"role": "tool", "tool_call_id": block["tool_use_id"], "content": said})
    tools = [
        {
            "type": "function",
            "function": {
                "name": tool["name"],
                "description": tool.get("description", ""),
                "parameters": tool.get("input_schema", {}),
            },
        }
        for tool in fields.get("tools") or ()
    ]
    return _chat(turns, tools, fields)


def _chat(turns: list[Json], tools: list[Json], fields: Json) -> Counted:
    more = {name: fields[name] for name in ("chat_template_kwargs",) if name in fields}
    return Kind.CHAT, {"messages": turns, **({"tools": tools} if tools else {}), **more}


def _texts(content: Any) -> str:
    """The texts of a content: engines' templates see one string."""
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content if "text" in part)


def _call(call_id: str, name: str, arguments: Any) -> Json:
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}
