"""`quire chat`: a conversation on stdin."""

import quire.cli.chat as chat_module


def test_answers_are_streamed_until_exit(quire, model, on_reference):
    result = quire("chat", model, "-m", "4", *on_reference, stdin="hello\nagain\n/exit\nnever read\n")
    assert result.exit_code == 0
    assert result.stderr.count("4 tokens in") == 2


def test_the_end_of_input_leaves(quire, model, on_reference):
    assert quire("chat", model, "-m", "4", *on_reference, stdin="").exit_code == 0


def test_a_conversation_grows_and_clear_forgets_it(quire, model, on_reference):
    said = "one\ntwo\n/clear\none\n"
    result = quire("chat", model, "-m", "4", "-t", "0", "--system", "be brief", *on_reference, stdin=said)
    prompts = [line.split("prompt ")[1].split()[0] for line in result.stderr.splitlines() if "prompt " in line]
    assert int(prompts[1]) > int(prompts[0])
    assert prompts[2] == prompts[0]


def test_a_conversation_too_long_is_told_and_the_chat_goes_on(quire, model, on_reference):
    result = quire("chat", model, "-m", "4", *on_reference, stdin="x" * 300 + "\nshort\n")
    assert result.exit_code == 0
    assert "max_model_len is 256" in result.stderr
    assert result.stderr.count("4 tokens in") == 1


def test_help_names_the_commands(quire, model, on_reference):
    result = quire("chat", model, *on_reference, stdin="/help\n")
    assert result.stderr.replace("\n", " ").count("/clear forgets") == 2
    assert "/clear" in chat_module.HELP
