"""From a config to a running engine: backend, executor, weights, tokenizer, generation defaults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from quire.backend.claims import reasons_against_request
from quire.backend.contract import Executor, ExecutorContext
from quire.backend.hooks import reasons_against
from quire.config import EngineConfig
from quire.engine import Engine
from quire.sampling import SamplingParams
from quire.text.generation_config import GenerationDefaults, read_generation_defaults
from quire.text.tokenizer import Tokenizer, has_tokenizer, load_tokenizer


class OpenedEngine(NamedTuple):
    """An engine, and what its executor was built from."""

    engine: Engine
    context: ExecutorContext


def open_engine(config: EngineConfig) -> Engine:
    """Build and start everything. Raise BackendError, ConfigError, ModelError, CapacityError.

    A model folder without any tokenizer gives an engine that takes and gives token ids only.
    """
    return open_with_context(config).engine


def open_with_context(config: EngineConfig) -> OpenedEngine:
    """Do the same, and return the executor's context too: backend, device, kernels, changes of the config."""
    from quire.backend.manager import build_executor

    executor, context = build_executor(config)
    return OpenedEngine(start_engine(executor, context), context)


def start_engine(executor: Executor, context: ExecutorContext) -> Engine:
    """Start an executor and put an engine on it, with the model's tokenizer and defaults."""
    from quire.models.resolve import resolve_path

    config = context.config
    folder = resolve_path(config.model, config.revision)
    tokenizer = _open_tokenizer(config, folder)
    defaults = _find_defaults(folder, context, tokenizer)
    facts = executor.start()
    try:
        return Engine(
            executor,
            facts,
            config,
            tokenizer,
            vocab_size=context.spec.vocab_size,
            defaults=defaults,
            validate=_validator(context),
        )
    except BaseException:
        executor.stop()
        raise


def _open_tokenizer(config: EngineConfig, folder: Path) -> Tokenizer | None:
    from quire.models.resolve import resolve_path

    if config.tokenizer is not None:
        return load_tokenizer(resolve_path(config.tokenizer), trust_remote_code=config.trust_remote_code)
    if not has_tokenizer(folder):
        return None
    return load_tokenizer(folder, trust_remote_code=config.trust_remote_code)


def _find_defaults(folder: Path, context: ExecutorContext, tokenizer: Tokenizer | None) -> GenerationDefaults:
    """Sequences end where the model's config, its generation config or its tokenizer says so."""
    defaults = read_generation_defaults(folder)
    eos_token_ids = defaults.eos_token_ids | set(context.spec.eos_token_ids)
    if tokenizer is not None and tokenizer.eos_token_id is not None:
        eos_token_ids |= {tokenizer.eos_token_id}
    return defaults._replace(eos_token_ids=eos_token_ids)


def _validator(context: ExecutorContext) -> Callable[[SamplingParams], Sequence[str]]:
    """Return what says why a request cannot be served: what is not claimed, then the backend's own reasons."""
    caps, hooks, who = context.caps, context.hooks, f"backend {context.selection.name!r}"
    if not hooks.quire_validate_request.get_hookimpls():
        return lambda params: reasons_against_request(params, caps)

    def reasons(params: SamplingParams) -> list[str]:
        return [*reasons_against(who, hooks, params), *reasons_against_request(params, caps)]

    return reasons
