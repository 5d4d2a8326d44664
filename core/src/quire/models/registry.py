"""Which architectures are known, and from a model folder to its spec (without torch) and to the model itself.

An architecture is native when a recipe describes it. Any other that transformers has as a causal language model runs
through `transformers_fallback`; what neither knows is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from quire.errors import ModelError
from quire.models.checkpoint_config import CheckpointConfig, eos_token_ids, read_config
from quire.models.decoder_config import DecoderConfig
from quire.models.gemma import gemma, gemma2, gemma3, gemma3_with_vision
from quire.models.granite import granite
from quire.models.llama import llama, mistral, smollm3
from quire.models.mixtral import mixtral
from quire.models.olmo import olmo2, olmo3
from quire.models.phi import phi3
from quire.models.qwen import qwen2, qwen3, qwen3_moe
from quire.models.spec import ModelSpec

if TYPE_CHECKING:
    from quire.models.context import DecoderModel, ModelContext

Recipe = Callable[[CheckpointConfig], DecoderConfig]

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "GemmaForCausalLM": gemma,
        "Gemma2ForCausalLM": gemma2,
        "Gemma3ForCausalLM": gemma3,
        "Gemma3ForConditionalGeneration": gemma3_with_vision,
        "GraniteForCausalLM": granite,
        "LlamaForCausalLM": llama,
        "MistralForCausalLM": mistral,
        "MixtralForCausalLM": mixtral,
        "Olmo2ForCausalLM": olmo2,
        "Olmo3ForCausalLM": olmo3,
        "Phi3ForCausalLM": phi3,
        "Qwen2ForCausalLM": qwen2,
        "Qwen3ForCausalLM": qwen3,
        "Qwen3MoeForCausalLM": qwen3_moe,
        "SmolLM3ForCausalLM": smollm3,
    }
)


def is_native(architecture: str) -> bool:
    """Say whether a recipe of Quire's describes it; others run through transformers' own code."""
    return architecture in RECIPES


def read_spec(path: Path, trust_remote_code: bool = False) -> ModelSpec:
    """Return the model's numbers, from config.json. Raise ModelError on what cannot be served.

    Native architectures need no torch; others ask transformers, which imports it.
    """
    config = read_config(path)
    _refuse_quantized(config)
    if is_native(config.architecture):
        return _native_spec(describe(config), config, eos_token_ids(path, config))
    from quire.models import transformers_fallback

    try:
        return transformers_fallback.read_spec(path, config, trust_remote_code)
    except ModelError as error:
        raise ModelError(
            f"{config.architecture} is not native and cannot run through transformers: {error}. "
            f"Use a newer transformers that has it, or one of {', '.join(sorted(RECIPES))}"
        ) from error


def build(path: Path, spec: ModelSpec, context: ModelContext, trust_remote_code: bool = False) -> DecoderModel:
    """Build the model of a folder, without its weights: `loader.load_weights` brings them. Raise ModelError,
    KernelError."""
    config = read_config(path)
    if is_native(spec.architecture):
        from quire.models.decoder import Decoder

        return Decoder(context, describe(config))
    from quire.models import transformers_fallback

    return transformers_fallback.build(path, context, trust_remote_code)


def describe(config: CheckpointConfig) -> DecoderConfig:
    """Return the description of a native architecture. Raise ModelError if the config asks for the impossible."""
    decoder = RECIPES[config.architecture](config)
    if decoder.num_heads % decoder.num_kv_heads:
        raise ModelError(
            f"{config.where}: {decoder.num_heads} query heads cannot share {decoder.num_kv_heads} KV heads evenly"
        )
    return decoder


def _native_spec(decoder: DecoderConfig, config: CheckpointConfig, eos: tuple[int, ...]) -> ModelSpec:
    return ModelSpec(
        architecture=decoder.architecture,
        num_layers=len(decoder.layers),
        hidden_size=decoder.hidden_size,
        intermediate_size=decoder.intermediate_size,
        num_heads=decoder.num_heads,
        num_kv_heads=decoder.num_kv_heads,
        head_dim=decoder.head_dim,
        vocab_size=decoder.vocab_size,
        max_model_len=decoder.max_model_len,
        dtype=config.dtype,
        num_parameters=decoder.count_parameters(),
        windows=tuple(layer.window for layer in decoder.layers),
        soft_cap=decoder.attention_soft_cap,
        num_experts=decoder.experts.num_experts if decoder.experts else 0,
        eos_token_ids=eos,
    )


def _refuse_quantized(config: CheckpointConfig) -> None:
    quantization = config.get("quantization_config")
    if quantization is not None:
        method = quantization.get("quant_method", "an unnamed method")
        raise ModelError(f"{config.where} is quantized with {method}, which is not supported yet; use plain weights")
