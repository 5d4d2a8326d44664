"""/v1/embeddings, and /score: what a model thinks of texts without writing any."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

import msgspec
import numpy as np
from fastapi import APIRouter, Request, Response

from quire.errors import RequestError
from quire.intake import Prompt
from quire.outputs import ScoreOutput
from quire.sampling import OutputKind
from quire.scoring import ScorePrompt, make_score_prompt, read_score, score_params
from quire_server import schemas
from quire_server.errors import ApiError
from quire_server.events import json_response, while_connected
from quire_server.frontend import Frontend, off_loop
from quire_server.requests import EmbeddingRequest, ScoreRequest
from quire_server.usage import Usage

MAX_INPUTS = 2048  # of one request, as OpenAI has it


def make_router(frontend: Frontend) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    @router.post("/v1/embeddings", responses=schemas.answers(schemas.Embeddings, *schemas.ASKED))
    async def embeddings(request: EmbeddingRequest, http: Request) -> Response:
        """Return texts as vectors."""
        frontend.check_model(request.model)
        deadline = frontend.deadline(http, request.timeout)
        return json_response(await while_connected(http, embed(frontend, request, http), deadline))

    scores = schemas.answers(schemas.Scores, *schemas.ASKED)

    @router.post("/score", responses=scores)
    @router.post("/v1/score", responses=scores)
    async def score(request: ScoreRequest, http: Request) -> Response:
        """Return how likely the model finds each of `text_2` after `text_1`: the sum of the tokens' logprobs."""
        frontend.check_model(request.model)
        deadline = frontend.deadline(http, request.timeout)
        return json_response(await while_connected(http, score_all(frontend, request, http), deadline))

    return router


async def embed(frontend: Frontend, request: EmbeddingRequest, http: Request) -> dict[str, Any]:
    """Return the answer of /v1/embeddings. Raise RequestError, ApiError."""
    if request.dimensions is not None:
        message = "dimensions is not served: the model's hidden size is what it is; leave it out"
        raise ApiError(400, message, param="dimensions", code="unsupported")
    most = request.truncate_prompt_tokens
    prompts = [_cut(prompt, frontend, most) for prompt in await frontend.read_prompts(request.input)]
    _check_count("input", len(prompts))
    for prompt in prompts:
        frontend.intake.admit_embedding("", prompt, request.pooling, 0.0)
    http.state.usage = usage = Usage(sum(len(prompt.token_ids) for prompt in prompts))
    found = await _gather([frontend.embed(prompt, request.pooling) for prompt in prompts])
    vectors = [_vector(item.embedding, request.normalize) for item in found]
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector, request.encoding_format)}
        for index, vector in enumerate(vectors)
    ]
    return {
        "id": f"embd-{http.state.request_id}",
        "object": "list",
        "model": frontend.check_model(request.model),
        "data": data,
        "usage": {"prompt_tokens": usage.num_prompt_tokens, "total_tokens": usage.num_prompt_tokens},
    }


async def score_all(frontend: Frontend, request: ScoreRequest, http: Request) -> dict[str, Any]:
    """Return the answer of /score. Raise RequestError, ApiError."""
    tails = [request.text_2] if isinstance(request.text_2, str) else request.text_2
    heads = [request.text_1] if isinstance(request.text_1, str) else request.text_1
    heads = heads * len(tails) if len(heads) == 1 else heads
    _check_count("text_2", len(tails))
    if len(heads) != len(tails):
        message = f"text_1 has {len(heads)} texts and text_2 {len(tails)}; give one for each, or a single text_1"
        raise RequestError(message, param="text_1")
    read = partial(_read_pairs, frontend, heads, tails)
    pairs = await off_loop(read, sum(len(text) for text in (*heads, *tails)))
    http.state.usage = usage = Usage(sum(len(pair.whole.token_ids) for pair in pairs))
    found = await _gather([_score(frontend, pair) for pair in pairs])
    return {
        "id": f"score-{http.state.request_id}",
        "object": "list",
        "created": int(time.time()),
        "model": frontend.check_model(request.model),
        "data": [
            {
                "index": index,
                "object": "score",
                "score": item.score,
                "num_tokens": len(item.token_ids),
                "greedy": item.greedy,
            }
            for index, item in enumerate(found)
        ],
        "usage": usage.as_dict(),
    }


def _read_pairs(frontend: Frontend, heads: Sequence[str], tails: Sequence[str]) -> list[ScorePrompt]:
    return [make_score_prompt(head, tail, frontend) for head, tail in zip(heads, tails, strict=True)]


async def _score(frontend: Frontend, pair: ScorePrompt) -> ScoreOutput:
    params = msgspec.structs.replace(score_params(), output_kind=OutputKind.FINAL_ONLY)
    params = frontend.fit(pair.whole, params, limit_given=True)
    async with aclosing(frontend.generate(pair.whole, params)) as outputs:
        return read_score(pair, [output async for output in outputs][-1])


async def _gather(work: Sequence[Any]) -> list[Any]:
    """Return all results in order. Raise the first error, when all others are cancelled."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(item) for item in work]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _cut(prompt: Prompt, frontend: Frontend, most: int | None) -> Prompt:
    """Return a prompt of at most so many tokens, its last ones; -1: as many as the context has room for."""
    if most is None:
        return prompt
    kept = frontend.client.info.max_model_len - 1 if most == -1 else most
    return prompt._replace(token_ids=prompt.token_ids[max(len(prompt.token_ids) - kept, 0) :])


def _vector(values: list[float], normalize: bool) -> np.ndarray:
    vector = np.asarray(values, np.float32)
    length = float(np.linalg.norm(vector))
    return vector / length if normalize and length else vector


def _encoded(vector: np.ndarray, encoding: str) -> list[float] | str:
    """Return floats, or their bytes (float32, little-endian) in base64."""
    return vector.tolist() if encoding == "float" else base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _check_count(name: str, count: int) -> None:
    if not 1 <= count <= MAX_INPUTS:
        raise RequestError(f"{name} holds {count} texts; give 1 to {MAX_INPUTS}", param=name)
