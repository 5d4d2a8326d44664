"""The kernels in CUDA C++: for what they are chosen, how they are laid out, that they compile. They run on a GPU."""

from __future__ import annotations

import re

import pytest
import torch

pytest.importorskip("triton")

from quire.backend.contract import KernelRequest
from quire.ops.records import OPS
from quire.ops.table import KernelTable
from quire_kernels_cuda import registry
from quire_kernels_triton.tuning import Target

HOPPER = Target("sm_90", 132, dependent=True)
QWEN3 = {
    "num_heads": 16,
    "num_kv_heads": 8,
    "head_dim": 128,
    "kv_dtype": "bfloat16",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "activation": "silu_and_mul",
    "bias": False,
    "rotary_dim": 128,
    "qk_norm": True,
}

QWEN2_HALF = {"hidden_size": 896, "intermediate_size": 4864, "heads": (14, 2), "head_dim": 64}


def reasons(target=HOPPER, **changes):
    request = KernelRequest("between_attentions", "bfloat16", {**QWEN3, **changes})
    return registry.reasons_against(registry.missing_parts(target), request)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"activation": "gelu_and_mul"}, "activation gelu_and_mul"),
        ({"head_dim": 80}, r"head_dim 80 is not one of \(64, 128\)"),
        ({"rotary_dim": 64}, "rotary_dim 64 is not head_dim 128"),
        ({"hidden_size": 1000}, "hidden_size 1000 is no multiple of 64"),
        ({"intermediate_size": 3000}, "intermediate_size 3000 is no multiple of 64"),
        ({"kv_dtype": "float8_e4m3fn"}, "kv_dtype float8_e4m3fn"),
        ({"hidden_size": 4096, "intermediate_size": 14336}, "gate and up have 117440512 weights"),
        ({"target": Target("sm_80", 108)}, "made for GPUs of sm_90, not sm_80"),
    ],
    ids=str,
)
def test_what_they_were_not_made_for_is_refused_with_its_reason(changes, reason):
    assert re.search(reason, " ".join(reasons(**changes)))


def test_without_the_compiler_the_table_says_what_to_install(monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    table = KernelTable(OPS)
    registry.register_kernels(table, HOPPER)
    request = KernelRequest("between_attentions", "bfloat16", QWEN3)
    assert not table.serves(request)
    (kernel,) = table.kernels()
    assert "pip install cuda-bindings" in " ".join(kernel.constraint(request))


class TestWithCompiler:
    @pytest.fixture(autouse=True)
    def bindings(self):
        pytest.importorskip("cuda.bindings", reason="the compiler, cuda-bindings and nvidia-cuda-nvrtc, is not here")

    @pytest.fixture
    def fused(self):
        return registry.fused(HOPPER)

    def variants(self, fused, num_tokens, hidden_size=1024, intermediate_size=3072, heads=(16, 8), head_dim=128):
        from quire_kernels_cuda.between_attentions import Weights

        width, rows = heads[0] * head_dim, (heads[0] + 2 * heads[1]) * head_dim
        shapes = ((hidden_size, width), (2 * intermediate_size, hidden_size), (hidden_size, intermediate_size))
        weights = [torch.empty(shape, device="meta") for shape in (*shapes, (rows, hidden_size))]
        return fused._variants(num_tokens, Weights(*weights), head_dim)

    @pytest.mark.parametrize("num_tokens", [2, 64, 65, 128, 129, 192, 193, 256])
    @pytest.mark.parametrize("shape", [{}, QWEN2_HALF], ids=["qwen3", "qwen2"])
    def test_a_tile_fits_its_block_and_clusters_what_every_gpu_takes(self, fused, num_tokens, shape):
        for variant in self.variants(fused, num_tokens, **shape):
            assert variant.stages >= 3
            assert variant.shared_bytes <= (201 if variant.alone else 113) * 1024
            assert variant.splits * variant.peers <= 8
            assert variant.chunk % 8 == 0  # rows are swizzled by eights
            # A block's sums take the ring's place.
            assert 64 * (variant.out + 8) * 4 <= variant.shared_bytes

    def test_tiles_are_split_until_every_processor_has_one(self, fused):
        found = {count: [variant.splits for variant in self.variants(fused, count)] for count in (64, 128, 256)}
        assert found == {64: [4, 2, 4, 4], 128: [4, 1, 4, 2], 256: [2, 1, 2, 1]}

    def test_tokens_are_filled_up_to_whole_groups_of_peers(self, fused):
        from quire_kernels_cuda.fused_product import blocks_of_tokens

        assert [blocks_of_tokens(count, 2) for count in (65, 128, 129, 192, 256)] == [2, 2, 4, 4, 4]
        assert [blocks_of_tokens(count, 1) for count in (2, 64, 65, 129, 192)] == [1, 1, 2, 3, 3]

    def test_every_variant_of_a_model_compiles(self, fused):
        pytest.importorskip("nvidia.cu13", reason="the compiler, nvidia-cuda-nvrtc, is not here")
        from quire_kernels_cuda.fused_product import compile_variant

        variants = {variant for count in (64, 128, 256) for variant in self.variants(fused, count)}
        assert {variant.epilogue for variant in variants} == {"ADD", "GATE", "HEADS"}
        for variant in variants:
            assert compile_variant(variant)[:4] == b"\x7fELF"

    def test_what_does_not_compile_says_why(self, monkeypatch):
        pytest.importorskip("nvidia.cu13", reason="the compiler, nvidia-cuda-nvrtc, is not here")
        from quire.errors import BackendError
        from quire_kernels_cuda import fused_product

        monkeypatch.setattr(fused_product, "source", lambda variant: "nonsense;")
        with pytest.raises(BackendError, match="nonsense"):
            fused_product.compile_variant(fused_product.Variant("ADD", 64, 1, 1, True))

    def test_the_arguments_are_laid_out_as_the_compiler_lays_them_out(self):
        from quire_kernels_cuda.fused_product import Arguments

        fields = {name: getattr(Arguments, name).offset for name, *_ in Arguments._fields_}
        assert fields["key_block"] == 15 * 8
        assert fields["num_tokens"] == 15 * 8 + 6 * 8
        assert fields["eps"] == 15 * 8 + 6 * 8 + 8 * 4


def test_the_kernels_text_names_the_fields_in_the_same_order():
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not here")
    from importlib import resources

    from quire_kernels_cuda.fused_product import Arguments

    text = resources.files("quire_kernels_cuda").joinpath("fused_product.cu").read_text()
    body = re.search(r"struct Arguments \{(.*?)\n\};", text, re.DOTALL)[1]
    lines = [re.sub(r"//.*", "", line).strip() for line in body.splitlines()]
    declared = [
        name.strip("* ")
        for line in lines
        if line
        for name in re.sub(r"^(const )?\w+\*? ", "", line).rstrip(";").split(",")
    ]
    assert declared == [name for name, *_ in Arguments._fields_]
