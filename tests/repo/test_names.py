"""The core knows no device by name: not in code, not in comments."""

import re
from pathlib import Path

import pytest

CORE = Path(__file__).parents[2] / "core/src/quire"
HARDWARE = re.compile(
    r"(?<![a-z])(cuda|cublas|cudnn|rocm|hip|xpu|tpu|neuron|npu|gaudi|ascend|nvidia|amd|intel|apple|metal|mps|triton|nccl"
    r"|rccl|oneccl|avx\d*\w*|amx|sse\d|neon|vsx|x86|ppc64le|powerpc|h100|h200|a100|mi300)(?![a-z])",
    re.IGNORECASE,
)


@pytest.mark.parametrize("text", ["x == 'cuda'", "is_hip()", "torch.cuda", "AVX2 only", "an h100", "avx512_bf16"])
def test_the_search_finds_hardware_names(text):
    assert HARDWARE.search(text)


@pytest.mark.parametrize("text", ["chip", "metallic", "shipped", "reproduced", "damps", "parameter", "neurons fire"])
def test_the_search_leaves_words_alone(text):
    assert not HARDWARE.search(text)


def test_no_hardware_is_named_in_core():
    found = [
        f"{path.relative_to(CORE)}:{number}: {line.strip()}"
        for path in sorted(CORE.rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if HARDWARE.search(line)
    ]
    assert not found, "\n".join(found)
