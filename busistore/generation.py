"""Prompts written by a language model: what it is asked, and what of its answers is taken.

An answer must be exactly what was asked for: N different texts of each class. One that is not is sent back with the
reason, a few times. How a set was made is kept with it; the same request may well give another set tomorrow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from busistore import prompts
from busistore.chat import Chat, Endpoint
from busistore.errors import BusistoreError

MAX_ASKS = 3
LONGEST = 300  # characters of one text: about what the 77 tokens of CLIP hold
COUNTED = ("prompt_tokens", "completion_tokens", "total_tokens")
INSTRUCTION = (
    "Describe what is seen in the terms of the ACR BI-RADS ultrasound lexicon: shape, orientation, margin, echo "
    "pattern, posterior features, calcifications and associated features of a mass; of normal tissue its composition."
)
FORM = (
    "You write prompts for a vision-language model, which compares them with breast ultrasound images. For each class "
    "({classes}) write {n} descriptions, in English, of an image of that class. Each is one sentence of at most "
    "{longest} characters, without a number before it; no two are the same. Answer with one JSON object that has a key "
    "for each class, whose value is the list of its {n} descriptions."
)


@dataclass(frozen=True)
class Request:
    """N texts a class, under `name`, from the model at an endpoint. `instruction` says what is to be described."""

    name: str
    endpoint: Endpoint
    classes: tuple[str, ...]
    n: int = 10
    instruction: str = INSTRUCTION

    def __post_init__(self) -> None:
        """Raises BusistoreError: a name that no set may have, or nothing that could be asked."""
        wrong = prompts.name_fault(self.name) or prompts.fault({label: ["text of " + label] for label in self.classes})
        if len(set(self.classes)) < len(self.classes):
            wrong = f"a class is named twice in {', '.join(self.classes)}"
        if self.n < 1:
            wrong = f"{self.n} texts a class are none; ask for 1 or more"
        for words, text in (("instruction", self.instruction), ("name of the LLM", self.endpoint.model)):
            if not prompts.is_text(text):
                wrong = f"the {words} is {prompts.quoted(text)}, which is no text"
        if wrong:
            raise BusistoreError(f"cannot ask for a prompt set: {wrong}")

    def body(self) -> dict[str, Any]:
        """The first request as it is sent; later ones only have more messages."""
        form = FORM.format(classes=", ".join(self.classes), n=self.n, longest=LONGEST)
        return {
            "model": self.endpoint.model,
            "messages": [{"role": "system", "content": form}, {"role": "user", "content": self.instruction}],
            "response_format": {
                "type": "json_schema", "json_schema": {"name": "prompts", "strict": True, "schema": self.schema()},
            },
        }  # fmt: skip

    def schema(self) -> dict[str, Any]:
        """An object with one list of N texts for each class, and nothing else."""
        texts = {"type": "array", "items": {"type": "string"}, "minItems": self.n, "maxItems": self.n}
        return {
            "type": "object", "properties": dict.fromkeys(self.classes, texts),
            "required": list(self.classes), "additionalProperties": False,
        }  # fmt: skip


class _Unusable(Exception):
    """Why an answer cannot be taken, in words for the model that gave it."""


@dataclass
class _Asked:
    """What the asks of one request have come to: their number and the tokens that they cost."""

    n: int = 0
    usage: dict[str, int] = field(default_factory=dict)

    def count(self, answer: dict[str, Any]) -> None:
        self.n += 1
        told = answer.get("usage")
        for name in COUNTED:
            if isinstance(told, dict) and isinstance(told.get(name), int):
                self.usage[name] = self.usage.get(name, 0) + told[name]


def generate(
    request: Request, environ: Mapping[str, str] = os.environ, note: Callable[[str], None] = lambda text: None
) -> prompts.PromptSet:
    """A prompt set from a language model; its `details` say by which, when, and what it was asked.

    Args:
        environ: where the key is read from.
        note: told of every wait and every answer that is sent back.

    Raises:
        BusistoreError: no key, no answer, or none that can be taken.
    """
    chat, body, asked = Chat(request.endpoint, environ, note), request.body(), _Asked()
    while True:
        answer = chat.ask(body)
        asked.count(answer)
        try:
            texts = _texts(answer)
            return _made(request, chat.host, body, answer, asked, _classes(texts, request))
        except _Unusable as reason:
            if asked.n == MAX_ASKS:
                raise BusistoreError(
                    f"'{request.endpoint.model}' gave nothing usable in {MAX_ASKS} asks; of the last: {reason}"
                ) from None
            note(f"asking again: {reason}")
            body = body | {"messages": [*body["messages"], *_reply(answer, str(reason))]}


def _texts(answer: dict[str, Any]) -> str:
    """What the model says, as text.

    Raises:
        BusistoreError: the endpoint's answer is no chat completion.
        _Unusable: it refuses, or was cut.
    """
    try:
        choice = answer["choices"][0]
        message, ended = choice["message"], choice.get("finish_reason")
        content, refusal = message.get("content"), message.get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise BusistoreError("the LLM endpoint's answer is no chat completion; does --endpoint name its API?") from None
    if refusal:
        raise _Unusable(f"it was refused ({prompts.quoted(refusal)})")
    if ended == "length":
        raise _Unusable("it was cut at the limit of length; write shorter descriptions")
    if ended == "content_filter":
        raise _Unusable("it was stopped by the endpoint's content filter")
    if not isinstance(content, str) or not content.strip():
        raise _Unusable("it was empty")
    return content


def _classes(content: str, request: Request) -> dict[str, list[str]]:
    """{class: texts}, exactly as asked; raises _Unusable with what is wrong."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise _Unusable(f"it was not JSON: {prompts.quoted(content)}") from None
    if not isinstance(found, dict) or found.keys() != set(request.classes):
        raise _Unusable(f"it must be one JSON object with exactly the keys {', '.join(request.classes)}")
    if wrong := prompts.fault(found):
        raise _Unusable(wrong)
    for label, texts in found.items():
        if len(texts) != request.n:
            raise _Unusable(f"class '{label}' has {len(texts)} descriptions, not {request.n}")
        if longer := [text for text in texts if len(text) > LONGEST]:
            raise _Unusable(f"class '{label}' has one of {len(longer[0])} characters; at most {LONGEST} are taken")
    return found


def _reply(answer: dict[str, Any], reason: str) -> list[dict[str, str]]:
    """The answer, where there is a whole one, and why it is not taken."""
    choice = answer["choices"][0]
    content = choice["message"].get("content")
    told = f"Your answer cannot be taken: {reason}. Answer again, with the whole JSON object."
    whole = isinstance(content, str) and content.strip() and choice.get("finish_reason") != "length"
    said = [{"role": "assistant", "content": content.encode(errors="replace").decode()}] if whole else []
    return [*said, {"role": "user", "content": told}]


def _made(
    request: Request, host: str, body: dict[str, Any], answer: dict[str, Any], asked: _Asked, classes: dict[str, Any]
) -> prompts.PromptSet:
    told = answer.get("model")
    model = told if prompts.is_text(told) else request.endpoint.model
    details = {
        "llm": model, "endpoint": host, "date": datetime.now(UTC).isoformat(timespec="seconds"), "n_asks": asked.n,
        "usage": asked.usage, "request": body,
    }  # fmt: skip
    summary, source = f"{request.n} descriptions a class by {model}", f"generated by {model} at {host}"
    return prompts.PromptSet(request.name, summary, source, prompts.canonical(classes), details)
