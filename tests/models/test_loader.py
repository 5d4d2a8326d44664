"""Loading: what a folder may hold, and how a folder that cannot be used is refused."""

import json
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quire.errors import ModelError
from quire.models import loader, registry
from quire.models.checkpoint import OpenFile
from quire.models.context import ModelContext
from quire.models.layers import Linear

from .checkpoints import expected_logits, prompt, relative_error, write_checkpoint
from .harness import Runner, make_context

NORM = "model.norm.weight"
QUERY = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def folder(write, tmp_path) -> Path:
    """A Llama checkpoint that a test may damage."""
    for file in write("Llama", {}).path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def change(folder: Path, **changes: torch.Tensor | None) -> None:
    """Set or remove tensors; `.` in names is written `__`."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in changes.items():
        tensors.pop(name.replace("__", "."), None)
        if tensor is not None:
            tensors[name.replace("__", ".")] = tensor
    save_file(tensors, file, metadata={"format": "pt"})


def load(folder: Path) -> None:
    model = registry.build(folder, registry.read_spec(folder), make_context())
    loader.load_weights(model, folder)


def test_shards_are_found_through_the_index(tmp_path):
    model = write_checkpoint(tmp_path, "Qwen3", {"head_dim": 16}, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    tokens = prompt(11)
    assert relative_error(Runner(tmp_path).logits([tokens])[0], expected_logits(model, tokens)) < 1e-4


def test_files_without_an_index_are_read_together(folder):
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    save_file({name: tensors[name] for name in names[:5]}, folder / "a.safetensors")
    save_file({name: tensors[name] for name in names[5:]}, folder / "b.safetensors")
    (folder / "model.safetensors").unlink()
    load(folder)


def test_a_file_that_is_opened_anew_gives_the_same_tensors(tmp_path):
    tensors = {"a": torch.randn(17, 3), "b": torch.randn(5), "c": torch.ones(1)}
    save_file(tensors, tmp_path / "model.safetensors")
    with closing(OpenFile(tmp_path / "model.safetensors", mapped_bytes=8)) as file:
        found = {name: file.read(name) for name in file.names()}
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_a_bfloat16_checkpoint_runs_in_float32_with_its_exact_values(tmp_path):
    model = write_checkpoint(tmp_path, "Llama", {}, dtype=torch.bfloat16)
    runner = Runner(tmp_path)
    assert runner.spec.dtype == "bfloat16"
    tokens = prompt(11)
    assert relative_error(runner.logits([tokens])[0], expected_logits(model.float(), tokens)) < 1e-4


def test_a_float32_checkpoint_runs_in_bfloat16(write):
    native = write("Llama", {})
    tokens = prompt(11)
    (found,) = native.runner(dtype=torch.bfloat16).logits([tokens])
    assert relative_error(found, expected_logits(native.model, tokens)) < 0.1


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn], ids=str)
def test_weights_that_are_codes_are_refused(folder, dtype):
    codes = torch.zeros(load_file(folder / "model.safetensors")[QUERY].shape, dtype=dtype)
    change(folder, **{QUERY.replace(".", "__"): codes})
    with pytest.raises(ModelError, match=f"{QUERY} holds {dtype}, which looks quantized.*use a checkpoint in float32"):
        load(folder)


def test_a_tied_head_needs_no_tensor_and_a_copy_of_it_is_passed_over(tmp_path):
    write_checkpoint(tmp_path, "Llama", {"tie_word_embeddings": True})
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    load(tmp_path)
    change(tmp_path, lm_head__weight=torch.zeros(199, 48))
    load(tmp_path)


def test_old_rotary_buffers_are_passed_over(folder):
    change(folder, model__layers__0__self_attn__rotary_emb__inv_freq=torch.zeros(4))
    load(folder)


def test_every_weight_is_allocated_through_the_context(write):
    given = []

    def allocate(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        given.append(shape)
        return torch.empty(shape, dtype=dtype)

    native = write("Llama", {})
    context = make_context()
    context = ModelContext(context.table, context.dtype, context.device, allocate)
    loader.load_weights(registry.build(native.path, native.runner().spec, context), native.path)
    rope_table = 160 * 8
    assert sum(torch.Size(shape).numel() for shape in given) == native.model.num_parameters() + rope_table


def test_progress_reaches_the_number_of_weights(write):
    native = write("Llama", {})
    steps = []
    model = registry.build(native.path, native.runner().spec, make_context())
    loader.load_weights(model, native.path, progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (native.model.num_parameters(),) * 2
    assert steps == sorted(steps)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_progress_bar_is_shown_on_a_terminal(write, capsys, monkeypatch, is_terminal):
    monkeypatch.setenv("TTY_COMPATIBLE", str(int(is_terminal)))
    native = write("Llama", {})
    with loader.show_progress("reading") as progress:
        loader.load_weights(registry.build(native.path, native.runner().spec, make_context()), native.path, progress)
    assert ("reading" in capsys.readouterr().err) is is_terminal


def test_a_missing_shard_is_named(tmp_path):
    write_checkpoint(tmp_path, "Llama", {}, max_shard_size="40KB")
    victim = sorted(tmp_path.glob("*.safetensors"))[1]
    victim.unlink()
    with pytest.raises(ModelError, match=f"lacks 1 of .* shards .*{victim.name}.*download the model again"):
        load(tmp_path)


def test_missing_tensors_are_named(folder):
    change(folder, model__norm__weight=None)
    with pytest.raises(ModelError, match=f"lacks 1 tensor \\({NORM}\\)"):
        load(folder)


def test_unexpected_tensors_are_named(folder):
    change(folder, model__layers__0__mlp__extra=torch.zeros(3))
    with pytest.raises(ModelError, match=r"holds 1 tensor \(model.layers.0.mlp.extra\).*does not have"):
        load(folder)


def test_a_wrong_shape_is_named_with_both_shapes(folder):
    change(folder, model__layers__1__self_attn__q_proj__weight=torch.zeros(48, 47))
    with pytest.raises(ModelError, match=rf"{QUERY} has shape \[48, 47\]; by config.json it must be \[48, 48\]"):
        load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_no_number_is_named(folder, value):
    weight = torch.zeros(48, 48)
    weight[31, 5] = value
    change(folder, model__layers__1__self_attn__q_proj__weight=weight)
    with pytest.raises(ModelError, match=f"{QUERY} holds NaN or Inf"):
        load(folder)


def test_a_weight_too_large_for_the_dtype_is_refused(folder):
    change(folder, model__norm__weight=torch.full((48,), 1e5))
    model = registry.build(folder, registry.read_spec(folder), make_context(torch.float16))
    with pytest.raises(ModelError, match=rf"{NORM} holds NaN or Inf in torch.float16.*dtype=float32"):
        loader.load_weights(model, folder)


@pytest.mark.parametrize("kept", [0, 4, 400, -1000])
def test_a_file_that_is_cut_off_is_refused(folder, kept):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ModelError, match="cut off or no safetensors file.*download it again"):
        load(folder)


def test_pickles_are_refused_with_a_way_out(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickles \(pytorch_model.bin\).*save_pretrained"):
        load(folder)


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no .*safetensors"):
        load(folder)


def test_dummy_weights_are_seeded_and_give_finite_logits(write):
    native = write("Gemma2", {"head_dim": 16})

    def logits(seed: int) -> torch.Tensor:
        runner = native.runner()
        loader.fill_dummy(runner.model, seed)
        return runner.logits([prompt(11)])[0]

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))
    assert logits(1).isfinite().all()


def test_dummy_weights_differ_from_row_to_row_beyond_the_noise_period():
    width = loader.NOISE_PERIOD // 2
    layer = Linear(make_context(), [("w", 3)], width)
    loader.fill_dummy(layer, 0)
    first, _, third = layer(torch.eye(1, width) + torch.eye(1, width).flip(1))[0].tolist()
    assert first != third


def test_the_index_may_not_be_garbage(folder):
    (folder / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ModelError, match="model.safetensors.index.json cannot be read as JSON"):
        load(folder)


def test_an_index_that_names_a_tensor_in_no_shard_is_refused(tmp_path):
    write_checkpoint(tmp_path, "Llama", {}, max_shard_size="40KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shard = index["weight_map"][NORM]
    tensors = load_file(tmp_path / shard)
    del tensors[NORM]
    save_file(tensors, tmp_path / shard)
    with pytest.raises(ModelError, match=f"lacks 1 tensor \\({NORM}\\)"):
        load(tmp_path)
