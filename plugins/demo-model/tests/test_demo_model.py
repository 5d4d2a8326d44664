"""The demo model is what its card says: an ordinary Hugging Face directory with a trained model in it."""

import json
import math
from importlib.metadata import entry_points

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import quire_demo_model

AWKWARD_TEXTS = (
    " ",
    "\n\n\n",
    "\t\tdef f():\r\n\treturn 1\r\n",
    "  two  spaces  ",
    "naïve café, e\u0301",
    "日本語のテキスト",
    "العربية",
    "🙂👩‍👩‍👧",
    "\u00a0\u200b\x00\x7f",
    "x" * 97,
    "0123456789 don't",
)
# Measured 19.2 (float32 on a CPU). The margin is for other dtypes; unrelated weights or a wrong rotary base are
# in the hundreds and thousands.
MAX_HELD_OUT_PERPLEXITY = 21.0


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(quire_demo_model.path())


@pytest.fixture(scope="module")
def model():
    """Yield the model in float32, on one thread: on busy cores its small products only wait for a second one."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield AutoModelForCausalLM.from_pretrained(quire_demo_model.path(), dtype=torch.float32).eval()
    torch.set_num_threads(num_threads)


def continuation(model, tokenizer, prompt_ids: list[int], num_tokens: int) -> str:
    """Return the greedy continuation of a prompt, special tokens left in."""
    ids = torch.tensor([prompt_ids])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_tokens, do_sample=False)
    return tokenizer.decode(out[0, len(prompt_ids) :])


def answer(model, tokenizer, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    prompt_ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    return continuation(model, tokenizer, prompt_ids, num_tokens=64)


def test_quire_finds_the_folder_by_the_name_demo():
    (entry,) = entry_points(group="quire.models", name="demo")
    assert entry.load()() == quire_demo_model.path()


def test_weights_are_bfloat16_and_no_larger_than_25_megabytes():
    file = quire_demo_model.path() / "model.safetensors"
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {"BF16"}
    assert file.stat().st_size <= 25_000_000


def test_number_of_parameters_is_what_the_card_says(model):
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_998_080


def test_query_heads_share_key_heads(model):
    assert model.config.num_attention_heads == 2 * model.config.num_key_value_heads


@pytest.mark.parametrize("text", AWKWARD_TEXTS)
def test_tokens_of_awkward_text_decode_to_the_same_text(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_prompt_starts_with_the_token_that_separates_documents(tokenizer):
    assert tokenizer("Python")["input_ids"][0] == tokenizer.convert_tokens_to_ids("<|endoftext|>")


def test_held_out_text_takes_few_tokens(tokenizer):
    text = quire_demo_model.held_out_text()
    assert len(text.encode()) / len(tokenizer(text, verbose=False)["input_ids"]) > 3.4


@torch.no_grad()
def held_out_losses(model, tokenizer, window: int = 1024) -> torch.Tensor:
    """Return the loss of every held-out token, in nats, in windows that begin with the start token."""
    ids = tokenizer(quire_demo_model.held_out_text(), add_special_tokens=False, verbose=False)["input_ids"]
    losses = []
    for start in range(0, len(ids), window):
        row = torch.tensor([[tokenizer.bos_token_id, *ids[start : start + window]]])
        losses.append(torch.nn.functional.cross_entropy(model(row).logits[0, :-1], row[0, 1:], reduction="none"))
    return torch.cat(losses)


def test_model_predicts_held_out_documentation(model, tokenizer):
    assert math.exp(held_out_losses(model, tokenizer).mean()) < MAX_HELD_OUT_PERPLEXITY


def test_chat_template_marks_every_turn_and_opens_the_answer(tokenizer):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == (
        "<|endoftext|><|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )


def test_chat_answer_says_what_the_function_does_and_stops(model, tokenizer):
    text = answer(model, tokenizer, "What does textwrap.dedent do?")
    assert text.startswith("Remove any common leading whitespace from every line")
    assert text.endswith("<|im_end|>")


def test_chat_says_that_it_does_not_know_what_it_has_not_read(model, tokenizer):
    assert answer(model, tokenizer, "What is the capital of Italy?").startswith("I do not know.")


def test_plain_continuation_is_varied_text(model, tokenizer):
    text = continuation(model, tokenizer, tokenizer("The `zipfile` module")["input_ids"], num_tokens=48)
    words = text.split()
    assert len(words) > 20
    assert len(set(words)) > len(words) / 2
