"""Options that several commands share: how to run the engine, and how to sample.

A command takes `settings` and `sampling` as mappings of what the user gave; `engine_options` and `sampling_options` put
the options on its command line. What was not given is left to `EngineConfig` and to the model's own defaults.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def parse_bytes(text: str) -> int:
    """Return the bytes meant by "24GiB", "800MB" or "1024". Raise typer.BadParameter on anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no amount of memory; say for instance 24GiB or 800MB")
    return int(float(match[1]) * UNITS[match[2]])


def parse_pairs(pairs: list[str]) -> dict[str, str]:
    """Return `["threads=2"]` as a mapping. Raise typer.BadParameter where there is no "="."""
    for pair in pairs:
        if "=" not in pair:
            raise typer.BadParameter(f"{pair!r} has no '='; say NAME=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


ENGINE = "Engine"
SAMPLING = "Sampling"


def option(kind: Any, help: str, panel: str, *names: str, **more: Any) -> Any:
    """Return the annotation of an option; without `names` it is called as its parameter is."""
    return Annotated[kind, typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **more)]


BackendOption = option(str | None, "Backend to use; without it the best one found here.", ENGINE)

ENGINE_OPTIONS: Mapping[str, Any] = {
    "backend": BackendOption,
    "backend_options": option(
        list[str] | None, "An option of the backend, NAME=VALUE; may be repeated.", ENGINE, "--backend-option"
    ),
    "dtype": option(str | None, "Data type of the weights, e.g. float32, bfloat16.", ENGINE),
    "kv_dtype": option(str | None, "Data type of the KV cache.", ENGINE),
    "memory_bytes": option(str | None, "Memory for weights, steps and KV cache, e.g. 24GiB.", ENGINE, "--memory"),
    "max_model_len": option(int | None, "Longest context, in tokens.", ENGINE),
    "max_num_seqs": option(int | None, "Requests that run at once.", ENGINE),
    "max_num_batched_tokens": option(int | None, "Tokens computed in one step.", ENGINE),
    "block_size": option(int | None, "Tokens in a KV block.", ENGINE),
    "enable_prefix_caching": option(
        bool | None, "Reuse KV blocks of equal prefixes.", ENGINE, "--prefix-caching/--no-prefix-caching"
    ),
    "overlap": option(bool | None, "Schedule the next step while one runs.", ENGINE, "--overlap/--no-overlap"),
    "enforce_eager": option(bool | None, "Build no graphs or compiled programs.", ENGINE, "--enforce-eager"),
    "tokenizer": option(str | None, "Tokenizer to use instead of the model's.", ENGINE),
    "revision": option(str | None, "Revision of a Hugging Face model.", ENGINE),
    "load_format": option(str | None, "safetensors, or dummy for made-up weights.", ENGINE),
    "trust_remote_code": option(bool | None, "Run code that the model brings.", ENGINE, "--trust-remote-code"),
    "record": option(str | None, "File to record arrivals and decisions into, for `quire replay`.", ENGINE),
}

SAMPLING_OPTIONS: Mapping[str, Any] = {
    "max_tokens": option(int | None, "Most tokens to generate.", SAMPLING, "--max-tokens", "-m"),
    "min_tokens": option(int | None, "Fewest tokens to generate.", SAMPLING),
    "temperature": option(float | None, "0 is greedy.", SAMPLING, "--temperature", "-t"),
    "top_p": option(float | None, "Keep the likeliest tokens up to this probability.", SAMPLING),
    "top_k": option(int | None, "Keep so many of the likeliest tokens.", SAMPLING),
    "min_p": option(float | None, "Keep tokens at least so likely, relative to the likeliest.", SAMPLING),
    "repetition_penalty": option(float | None, "Above 1: avoid tokens seen before.", SAMPLING),
    "presence_penalty": option(float | None, "Above 0: avoid tokens generated before.", SAMPLING),
    "frequency_penalty": option(float | None, "The same, for each time.", SAMPLING),
    "seed": option(int | None, "Same seed, same text.", SAMPLING),
    "stop": option(list[str] | None, "Text to stop at; may be repeated.", SAMPLING),
    "ignore_eos": option(bool | None, "Go on after the end-of-sequence token.", SAMPLING, "--ignore-eos"),
}


def engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Put the engine's options on a command; it gets those that were given as `settings`, keyed as EngineConfig is."""
    return with_options(command, "settings", ENGINE_OPTIONS, _engine_settings)


def sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """Put the sampling options on a command; it gets those that were given as `sampling`."""
    return with_options(command, "sampling", SAMPLING_OPTIONS, _sampling)


def _engine_settings(given: dict[str, Any]) -> dict[str, Any]:
    if "memory_bytes" in given:
        given["memory_bytes"] = parse_bytes(given["memory_bytes"])
    if "backend_options" in given:
        given["backend_options"] = parse_pairs(given["backend_options"])
    return given


def _sampling(given: dict[str, Any]) -> dict[str, Any]:
    """Return what was given. Raise RequestError on what no model could serve, before one is loaded for it."""
    from quire.sampling import SamplingParams

    SamplingParams(**{"max_tokens": None, **given})
    return given


def with_options(
    command: Callable[..., None],
    argument: str,
    options: Mapping[str, Any],
    finish: Callable[[dict[str, Any]], dict[str, Any]],
) -> Callable[..., None]:
    """Return `command` with its parameter `argument` replaced by one parameter for each option; `argument` gets what
    `finish` makes of those that were given."""

    @functools.wraps(command)
    def with_options(**given: Any) -> None:
        chosen = {name: given.pop(name) for name in options}
        chosen = {name: value for name, value in chosen.items() if value not in (None, [])}
        command(**given, **{argument: finish(chosen)})

    signature = inspect.signature(command, eval_str=True)
    kept = [parameter for parameter in signature.parameters.values() if parameter.name != argument]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in options.items()
    ]
    setattr(with_options, "__signature__", signature.replace(parameters=[*kept, *more]))  # noqa: B010
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in [*kept, *more]}
    return with_options
