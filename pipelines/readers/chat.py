"""Conversations: one JSON object a line, as the reader `jsonl`, with a list of messages; each becomes one plain text.

The list is the field `text_field` if that holds one, else `messages`: {role, content} with roles system, developer,
user, assistant, tool; else `conversations`: {from, value} with system, human, gpt (ShareGPT). Either kind of message
may stand in either field. A content is text, or a list of parts {type: text, text}, one to a line.

A conversation is taken whole or not at all: a system (or developer) message may come first, then user and assistant
take turns, beginning with the user; between two turns of the assistant there may be those of tools. Both say something.

    System: You are brief.

    User: What is 2 + 2?

    Assistant: 4

Plain words, as special tokens of chat templates in text before post-training ruin the model (OLMo 3: GSM8K from 49 to
0; plain headings 46). Turns stay unambiguous: a paragraph of a content that begins like a heading is moved right by one
space: taking one space from each that is so undoes it. White space around a content is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pipelines.readers.archives import read_each
from pipelines.readers.files import File, Record, Reject, document
from pipelines.readers.jsonl import is_wanted, licence_text, objects
from schemas.parts import Source

FIELDS = ("messages", "conversations")
HEADINGS = {"system": "System", "developer": "System", "user": "User", "human": "User",
            "assistant": "Assistant", "gpt": "Assistant", "tool": "Tool"}  # fmt: skip
BEFORE = {"User": ("", "Assistant"), "Assistant": ("User", "Tool"), "Tool": ("Assistant", "Tool"), "System": ()}
# a literal first: chats at 211 MB/s, with a look behind 80
MISTAKABLE = re.compile(r"\n\n(?= *+(?:System|User|Assistant|Tool):)")


def read(file: File, source: Source) -> Iterator[Record | Reject]:
    """A record or a reject for each line. Raises OSError when the file cannot be read."""
    return read_each(file, source, is_wanted, lambda member, source: objects(member, source, conversation))


def conversation(uri: str, value: dict[str, Any], source: Source) -> Record | Reject:
    """One line's conversation as text."""
    messages = next((value[name] for name in (source.text_field, *FIELDS) if isinstance(value.get(name), list)), None)
    if messages is None:
        names = ", ".join(map(repr, list(value)[:20]))
        return Reject(
            uri, "no_text", f"expected a list in field {' or '.join(map(repr, FIELDS))}, found {names:.200}", 0
        )
    said = []
    for i, message in enumerate(messages):
        one = turn(message)
        if isinstance(one, str):
            return Reject(uri, "bad_turn", f"message {i}: expected {one:.200}", 0)
        said.append(one)
    wrong = order([heading for heading, _ in said])
    if wrong:
        return Reject(uri, "bad_order", f"expected {wrong}", 0)
    text = "\n\n".join(f"{heading}: {content}" for heading, content in said)
    made = document(uri, text, licence_text(value.get(source.licence_field)), source)
    n_turns = sum(heading != "System" for heading, _ in said)
    return made._replace(facts=(("turns", str(n_turns)),)) if isinstance(made, Record) else made


def turn(message: Any) -> tuple[str, str] | str:
    """(heading, content) of a message; or what was expected of it and what was found."""
    if not isinstance(message, dict):
        return f"an object, found {type(message).__name__}"
    role, content = (message.get(name, message.get(other)) for name, other in (("role", "from"), ("content", "value")))
    heading = HEADINGS.get(role) if isinstance(role, str) else None
    if heading is None:
        return f"a role among {', '.join(HEADINGS)}; found {role!r:.40}"
    text = _text(content)
    if text is None:
        return f"text or parts of text, found {_kind(content)}"
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    return (heading, MISTAKABLE.sub("\n\n ", text)) if text else f"content, found none in a turn of {heading}"


def _text(content: Any) -> str | None:
    if not isinstance(content, list):
        return content if isinstance(content, str) else None
    parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    return "\n".join(parts) if all(isinstance(part, str) for part in parts) else None


def _kind(content: Any) -> str:
    if not isinstance(content, list):
        return type(content).__name__
    kinds = {repr(part.get("type"))[:20] if isinstance(part, dict) else type(part).__name__ for part in content[:20]}
    return f"parts of type {', '.join(sorted(kinds))}"


def order(headings: list[str]) -> str | None:
    """What was expected of the order of turns and what was found; None when all is well."""
    last = ""
    for i, heading in enumerate(headings):
        if i == 0 and heading == "System":
            continue
        if last not in BEFORE[heading]:
            before = last or "the beginning"
            return f"turns of User and Assistant, and System only first; found {heading} after {before} in message {i}"
        last = heading
    missing = [heading for heading in ("User", "Assistant") if heading not in headings]
    return f"at least one turn of {missing[0]}, found none in {len(headings):,} messages" if missing else None
