"""What the system sees of an engine is what `quire plan` said: weights, workspace, activations, cache, and the process.

Memory is no matter of speed, so it may be asserted; it is one process's own, so each engine gets a process.
"""

import json
import subprocess
import sys

import pytest

MIB = 2**20
SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 8191,
    "hidden_size": 256,
    "intermediate_size": 4096,
    "num_hidden_layers": 6,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 128,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "eos_token_id": 0,
    "tie_word_embeddings": False,
    "dtype": "float32",
}
SETTINGS = {
    "backend": "cpu-x86",
    "load_format": "dummy",
    "enable_prefix_caching": False,
    "max_num_seqs": 10,
    "max_num_batched_tokens": 2048,
    "memory_bytes": 720 * MIB,
}
CHILD = """
import json, sys
from quire.bench.process import peak_memory_bytes
from quire.cli.plan import make_plan
from quire.config import make_config
from quire.opening import open_engine
from quire.sampling import SamplingParams

folder, settings = sys.argv[1], json.loads(sys.argv[2])
planned = make_plan(folder, settings)
engine = open_engine(make_config({**settings, "model": folder}))
rows = settings["max_num_seqs"]
prompt = [1] * (planned.memory.kv_tokens // rows - 8)
for row in range(rows):
    engine.add(str(row), prompt, SamplingParams(max_tokens=4, ignore_eos=True, seed=row))
while engine.has_work:
    engine.step()
print(json.dumps([planned.process_bytes, planned.memory.total_bytes, peak_memory_bytes()]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory of a process is read as Linux tells it")
def test_a_process_whose_cache_is_full_holds_what_was_planned(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    command = [sys.executable, "-c", CHILD, str(tmp_path), json.dumps(SETTINGS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    process, total, peak = json.loads(done.stdout)
    assert total <= SETTINGS["memory_bytes"]
    assert peak == pytest.approx(process + total, rel=0.05)
