"""Read a chat in the shapes of published data sets: OpenAI's messages and ShareGPT's turns."""

from collections.abc import Callable
from typing import Any

from lightning_unlearn.data.tables import describe
from lightning_unlearn.errors import InputError

ROLES = ("system", "user", "assistant")
# Roles of ShareGPT files, and of OpenAI's newer models.
_ROLE_OF = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "developer": "system",
    **{role: role for role in ROLES},
}
_TOOLS = ("tool", "function", "tool_call", "tool_response", "function_call", "observation")


def read_chat(value: Any, place: str, content: Callable[[Any, str], str]) -> list[tuple[str, str]]:
    """Read a chat that ends in user, assistant.

    Args:
        value: a list of messages: objects with role and content, or with from and value. Content
            is text or a list of text parts.
        place: begin of messages: source, row and column.
        content: function that checks one text, given the value and its place.

    Returns:
        Roles (system, user, assistant) and texts.

    Raises:
        InputError: if it is no such chat, or has tool calls, images or sound.
    """
    if not isinstance(value, list):
        raise InputError(
            f"{place}: found {describe(value)}, expected a list of messages with role and content; "
            "for columns of plain text set prompt and answer instead of messages"
        )
    chat = []
    for number, message in enumerate(value, start=1):
        spot = f"{place}, message {number}"
        role, text = _parts(message, spot)
        chat.append((_role(role, spot), content(_text(text, spot), spot)))
    roles = [role for role, _ in chat]
    if roles[-2:] != ["user", "assistant"]:
        raise InputError(
            f"{place}: found the roles {', '.join(roles) or 'of no message'}, expected a chat that "
            "ends in user, assistant; the last message is the answer that the model learns"
        )
    return chat


def _parts(message: Any, spot: str) -> tuple[Any, Any]:
    """Return the role and the content of a message."""
    if isinstance(message, dict):
        called = [key for key in ("tool_calls", "function_call") if message.get(key)]
        if called:
            raise InputError(
                f"{spot}: found a tool call ('{called[0]}'), expected text: the answer of a stage "
                "is text that the model writes itself. Remove the row."
            )
        for role, text in (("role", "content"), ("from", "value")):
            if {role, text} <= message.keys():
                return message[role], message[text]
    found = (
        ", ".join(f"'{name}'" for name in message) or "no keys"
        if isinstance(message, dict)
        else describe(message)
    )
    raise InputError(
        f"{spot}: found {found}, expected an object with role and content, or with from and value; "
        "rename its keys"
    )


def _role(role: Any, spot: str) -> str:
    if role in _TOOLS:
        raise InputError(
            f"{spot}: found the role {role!r}, expected {', '.join(ROLES)}: a stage learns the "
            "answer to a chat without tools. Remove the row."
        )
    known = _ROLE_OF.get(role) if isinstance(role, str) else None
    if known is None:
        raise InputError(
            f"{spot}: found the role {role!r}, expected {', '.join(ROLES)}; rename the role or "
            "remove the row"
        )
    return known


def _text(value: Any, spot: str) -> Any:
    """Join the parts of a content that is a list; return any other value as it is."""
    if not isinstance(value, list):
        return value
    texts = []
    for number, part in enumerate(value, start=1):
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get("text") if isinstance(part, dict) else None
        if kind not in ("text", "input_text", "output_text") or not isinstance(text, str):
            found = f"the type {kind!r}" if kind is not None else describe(part)
            raise InputError(
                f"{spot}, part {number}: found {found}, expected text; a causal language model "
                "reads no other parts. Remove the row."
            )
        texts.append(text)
    return "".join(texts)
