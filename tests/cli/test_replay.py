"""`quire run --record` and `quire replay`."""


def test_a_recorded_run_is_decided_the_same_again(quire, model, on_reference, tmp_path):
    file = str(tmp_path / "run.rec")
    recorded = quire("run", model, "one", "two", "-m", "6", "--record", file, *on_reference)
    assert recorded.exit_code == 0
    result = quire("replay", file)
    assert result.exit_code == 0
    assert "2 requests" in result.stdout
    assert "every plan is the recorded one" in result.stdout


def test_a_file_that_is_no_recording_is_refused(quire, tmp_path):
    file = tmp_path / "run.rec"
    file.write_text("hello\n")
    result = quire("replay", str(file))
    assert result.exit_code == 1
    assert "error:" in result.stderr


def test_a_missing_file_is_refused(quire, tmp_path):
    assert quire("replay", str(tmp_path / "none")).exit_code == 2
