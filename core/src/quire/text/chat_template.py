"""Rendering of chat templates: transformers' own function for it, in its sandbox, with errors of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

from quire.errors import RequestError


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Any] | None,
    add_generation_prompt: bool,
    continue_final_message: bool,
    variables: Mapping[str, Any],
) -> str:
    """Return the text of a conversation. Raise RequestError where the template refuses it or is none."""
    try:
        texts, _ = render_jinja_template(
            conversations=[[dict(message) for message in messages]],
            chat_template=template,
            tools=None if tools is None else list(tools),
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            **variables,
        )
    except (jinja2.TemplateError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise RequestError(f"the chat template refuses these messages: {error}", param="messages") from error
    return str(texts[0])
