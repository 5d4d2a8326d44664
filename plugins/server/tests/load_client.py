"""Many clients of one server in a process of their own: `python load_client.py TASK URL …` prints what became of them.

storm URL CLIENTS TOKENS     so many streams at once; each must hold the tokens of its own seed
soak  URL CLIENTS SECONDS    streams one after the other, of which a fifth is left in the middle
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import sys
import time
from collections import Counter

LEAVING = 0.2
AT_ONCE = 50  # streams, where there is no crowd


class BrokenOff(Exception):
    """A stream that did not end as streams do."""


async def stream(port, body, num_events=None):
    """Return the text of a stream, or leave it after so many events and return None. Raise BrokenOff."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps({**body, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
    writer.write(f"{head}\r\nConnection: close\r\n\r\n".encode() + data)
    text = []
    try:
        async for line in reader:
            if line.startswith(b"data: [DONE]"):
                return "".join(text)
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                if "error" in event:
                    raise BrokenOff(event["error"]["message"])
                text += [choice["text"] for choice in event["choices"]]
                if num_events is not None and len(text) >= num_events:
                    return None
            elif line.startswith(b"HTTP/1.1 ") and b" 200 " not in line:
                raise BrokenOff(line.decode())
    except ConnectionError as error:
        raise BrokenOff(str(error)) from error
    finally:
        writer.close()
    raise BrokenOff("the connection was closed before the end")


async def storm(port, num_clients, num_tokens):
    """Null tokens depend on the seed and the position only: what a seed says among a few, it says in a crowd."""

    def body(seed):
        about = {"max_tokens": num_tokens, "ignore_eos": True, "temperature": 1}
        return {"prompt": [5, 6, 7], "seed": seed, **about}

    alone = []
    for first in range(0, num_clients, AT_ONCE):
        few = range(first, min(first + AT_ONCE, num_clients))
        alone += await asyncio.gather(*(stream(port, body(seed)) for seed in few))
    began = time.perf_counter()
    texts = await asyncio.gather(*(stream(port, body(seed)) for seed in range(num_clients)), return_exceptions=True)
    seconds = time.perf_counter() - began
    lost = [str(text) for text in texts if not isinstance(text, str)]
    mixed = [seed for seed, text in enumerate(texts) if isinstance(text, str) and text != alone[seed]]
    counts = {"num_clients": num_clients, "num_texts": len(set(alone)), "lost": lost, "mixed": mixed}
    return {**counts, "seconds": seconds, "tokens_per_s": num_clients * num_tokens / seconds}


async def soak(port, num_clients, seconds):
    """Keep so many clients busy; return how their requests ended."""
    counts, numbers, until = Counter(), random.Random(0), time.monotonic() + seconds

    async def one():
        while time.monotonic() < until:
            length = numbers.randint(4, 120)
            prompt = [numbers.randrange(3, 1000) for _ in range(numbers.randint(1, 200))]
            body = {"prompt": prompt, "max_tokens": length, "ignore_eos": True, "temperature": 1}
            leaving = numbers.randint(1, length) if numbers.random() < LEAVING else None
            try:
                text = await stream(port, body, leaving)
                counts["left" if text is None else "done"] += 1
            except BrokenOff as error:
                counts[str(error)] += 1

    await asyncio.gather(*(one() for _ in range(num_clients)))
    return counts


if __name__ == "__main__":
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    task, url, *rest = sys.argv[1:]
    work = {"storm": storm, "soak": soak}[task]
    print(json.dumps(asyncio.run(work(int(url.rpartition(":")[2]), *map(int, rest)))))
