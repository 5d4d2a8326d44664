"""/tokenize and /detokenize, as vLLM has them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from quire.errors import RequestError
from quire_server import schemas
from quire_server.events import json_response
from quire_server.frontend import Frontend, off_loop
from quire_server.requests import DetokenizeRequest, TokenizeRequest


def make_router(frontend: Frontend) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    @router.post("/tokenize", responses=schemas.answers(schemas.Tokens, 404, 415))
    async def tokenize(request: TokenizeRequest) -> Response:
        """Return the token ids of a text or a conversation."""
        frontend.check_model(request.model)
        return json_response(await tokenize_any(frontend, request))

    @router.post("/detokenize", responses=schemas.answers(schemas.Text, 404, 415))
    async def detokenize(request: DetokenizeRequest) -> Response:
        """Return the text of token ids."""
        frontend.check_model(request.model)
        tokenizer = frontend.need_tokenizer("/detokenize")
        vocab_size = frontend.client.info.vocab_size

        def decode() -> str:
            if (wrong := next((each for each in request.tokens if not 0 <= each < vocab_size), None)) is not None:
                message = f"tokens holds {wrong}; the model's token ids are 0 … {vocab_size - 1}"
                raise RequestError(message, param="tokens")
            return tokenizer.decode(request.tokens, skip_special_tokens=request.skip_special_tokens)

        return json_response({"prompt": await off_loop(decode, len(request.tokens))})

    return router


async def tokenize_any(frontend: Frontend, request: TokenizeRequest) -> dict[str, Any]:
    """Return /tokenize's answer. Raise RequestError, ApiError."""
    tokenizer = frontend.need_tokenizer("/tokenize")
    if request.messages is not None:
        prompt = await frontend.read_chat(
            request.messages,
            chat_template=request.chat_template,
            add_generation_prompt=request.add_generation_prompt,
            continue_final_message=request.continue_final_message,
            chat_template_kwargs=request.chat_template_kwargs,
        )
    else:
        prompt = (await frontend.read_prompts(request.prompt or "", add_special_tokens=request.add_special_tokens))[0]
    texts = [tokenizer.backend.id_to_token(item) for item in prompt.token_ids] if request.return_token_strs else None
    return {
        "count": len(prompt.token_ids),
        "max_model_len": frontend.client.info.max_model_len,
        "tokens": prompt.token_ids,
        "token_strs": texts,
    }
