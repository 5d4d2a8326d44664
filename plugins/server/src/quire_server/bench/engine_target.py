"""The engine itself as a target, without HTTP: what the server is compared with."""

from __future__ import annotations

import itertools
import time
from contextlib import aclosing

from quire.async_llm import AsyncLLM
from quire.errors import QuireError
from quire.sampling import OutputKind, SamplingParams
from quire_server.bench.load import Answer, Reply
from quire_server.bench.workload import Item


class EngineTarget:
    """Streams from an `AsyncLLM` of this process; texts are made as they are for the server's clients."""

    def __init__(self, llm: AsyncLLM) -> None:
        self._llm = llm
        self._numbers = itertools.count()

    async def send(self, item: Item) -> Answer:
        params = SamplingParams(
            temperature=0, max_tokens=item.output_len, ignore_eos=True, output_kind=OutputKind.DELTA
        )
        times, num_tokens, num_prompt_tokens = list[float](), 0, 0
        async with aclosing(self._llm.generate(item.prompt, params, f"bench-{next(self._numbers)}")) as outputs:
            async for output in outputs:
                times.append(time.perf_counter())
                num_tokens += len(output.outputs[0].token_ids)
                num_prompt_tokens = len(output.prompt_token_ids)
        if not times:
            raise QuireError("the answer holds no token")
        return lambda: Reply(times, num_tokens, num_prompt_tokens)
