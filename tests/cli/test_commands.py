"""Commands and errors, run in this process: by their output and exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mi_toolkit.app import dashboard
from mi_toolkit.cli import options
from mi_toolkit.cli.app import main, run
from mi_toolkit.heads.behaviours import BEHAVIOURS
from mi_toolkit.heads.stimulus_run import Batch, StimulusRun
from mi_toolkit.models.specs import MODELS, known_models

TOY = ["--model", "toy-gpt2"]


def test_a_file_without_a_text_is_told_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, held in (("empty.txt", ""), ("blank.txt", "\n \n"), ("blank.jsonl", '{"text": ""}')):
        (tmp_path / name).write_text(held)
        asked = ["--data-file", str(tmp_path / name), "--names", "resid_post"]
        assert run(["record", *asked, "--output", str(tmp_path / "store")]) == 2
        assert f"There is no text in {tmp_path / name}." in capsys.readouterr().err
        assert not (tmp_path / "store").exists()


def test_a_port_that_is_taken_is_told_without_the_words_of_gradio(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Page:
        def launch(self, **_: object) -> None:
            raise OSError("Cannot find empty port in range. Set GRADIO_SERVER_PORT.")

    monkeypatch.setattr(dashboard, "build", lambda _: Page())
    assert run(["app", "--port", "7861"]) == 1
    error = capsys.readouterr().err
    assert "Nothing can listen on 127.0.0.1:7861: the port is taken, or the address is" in error
    assert "GRADIO" not in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clasify"], 'Unknown command "clasify". Did you mean "classify"?'),
        (["classify", "--htlm", "x"], "Did you mean .*--html"),
        (["classify", "x", "--model"], "--model.* requires an argument"),
        (["classify", "x", "--model", "gpt-2"], "No model is called 'gpt-2'. Did you mean 'gpt2'"),
        (["classify", "x", "--behaviours", "inducton"], "Did you mean 'induction'"),
        (["classify", "--behaviours", "induction", "a text"], "Put the prompt before the options"),
        (["classify", "x", "--behaviours"], "--behaviours needs at least one name"),
        (["classify", "--data-file", "no.txt"], "There is no file no.txt"),
        (["classify", "--bos"], "--bos and --no-bos go with a PROMPT"),
        (["classify", "x", "--min-lift", "2"], "--min-lift.* Must be between 0 and 1"),
        (["classify", "x", "--min-lift", "high"], "--min-lift.* unable to convert"),
        (["classify", "x", "--batch-size", "0"], "--batch-size.* Must be 1 or more"),
        (["classify", "x", "--backend", "jax"], "--backend"),
        (["classify", "x", "--dtype", "int8"], "--dtype"),
        (["classify", "-x"], "Unknown option"),
        (["describe"], "MODEL.* requires an argument"),
        (["view", "x", "--layer", "0"], "Say where to draw: --html FILE, --png FILE"),
        (["view", "x", "--html", "x.html"], "Say what to draw: --layer N"),
        (["view", "x", *TOY, "--layer", "99", "--html", "x.html"], "no attention in layer 99"),
        (["view", "x", *TOY, "--heads", "L0H99", "--html", "x.html"], "no head 99"),
        (["view", "x", *TOY, "--heads", "nose", "--html", "x.html"], "'nose' names no head"),
        (["view", "x", "--layer", "0", "--png", "x.jpg"], r"let it end in \.png, \.svg or \.pdf"),
        (["classify", "x", "--png", "x"], r"let it end in \.png, \.svg or \.pdf"),
        (["classify", "- I like cats"], "goes after --, after all options: -- '- I like cats'"),
        (["generate", "-5 degrees and"], "goes after --, after all options: -- '-5 degrees and'"),
        (["attribute", "x", "--target", "- y"], "goes after an equals sign: '--target=- y'"),
        (["app", "--port", "99999"], "--port.* Must be between 0 and 65535"),
        (["app", "--host", "no.invalid"], "No address is called 'no.invalid': --host takes one of"),
        (["describe", "toy-gpt2", "x"], "^mi-toolkit: describe takes one MODEL; 'x' is too many"),
        (["models", "x", "y"], "^mi-toolkit: models takes no argument; 'x' and 'y' are too many"),
        (["classify", "- a list"], r"Unknown option: - a list\. A text that begins with a dash"),
        (["compare", "gpt2", "openai-community/gpt2"], "gpt2 is named twice: compare takes diff"),
        (["sweep", "--lengths", "16,many"], "--lengths.* unable to convert .*many.* into int"),
    ],
)
def test_wrong_usage_exits_with_2_and_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert re.search(message, error)
    assert re.fullmatch(r"mi-toolkit: [^\n]+\n", error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["classify", "", *TOY], "is empty"),
        (["classify", "a " * 2000, *TOY], "Shorten or split it"),
        (["classify", "x", "--model", "nobody/nothing"], "HF_HUB_OFFLINE"),
        (["classify", "x", "--model", "./nothing-here"], "There is no folder './nothing-here'"),
        (["describe", "nothing.gguf"], "There is no GGUF file 'nothing.gguf'"),
        (["classify", "--model", "../texts.txt"], "'../texts.txt' is a file, and no model: give a"),
        (["classify", "--model", "here/texts.txt"], "'here/texts.txt' is a file, and no model"),
        (["classify", "--model", "texts.txt"], "'texts.txt' is a file, and no model: give a"),
        (["describe", "here/model.safetensors"], "no model: give the folder that it is in."),
    ],
)
def test_work_that_fails_exits_with_1_and_one_line(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for place in ("texts.txt", "here/texts.txt", "here/here/texts.txt"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text("A text.")
    (tmp_path / "here/here/model.safetensors").write_text("{}")
    monkeypatch.chdir(tmp_path / "here")
    assert run(arguments) == 1
    out, error = capsys.readouterr()
    assert out == ""
    assert message in error
    assert re.fullmatch(r"mi-toolkit: [^\n]+\n", error)


def test_a_place_that_cannot_be_written_is_told_before_the_model_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options.LoadOptions, "load", lambda *_: pytest.fail("a model was loaded"))
    (tmp_path / "file").touch()
    for option, place, message in (
        ("--html", tmp_path, "is a folder: give the name of a file in it"),
        ("--html", tmp_path / "file" / "page.html", "is a file, so there can be no folder"),
        ("--output", tmp_path / "file", "is a file, so there can be no folder"),
    ):
        assert run(["classify", "x", option, str(place)]) == 1
        assert message in capsys.readouterr().err


def test_a_disk_that_refuses_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mi_toolkit.draw.page.atomic_write", refuse)
    page = tmp_path / "page.html"
    assert run(["view", "x y z", *TOY, "--layer", "0", "--html", str(page)]) == 1
    assert capsys.readouterr().err == (f"mi-toolkit: {page} cannot be written: the disk is full.\n")


def test_ctrl_c_exits_with_130_and_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(options.LoadOptions, "load", interrupt)
    monkeypatch.setattr("mi_toolkit.cli.terminal.prepare_process", lambda: None)
    with pytest.raises(SystemExit) as exited:
        main(["describe", "toy-gpt2"])
    assert exited.value.code == 130
    assert capsys.readouterr().err == "\nInterrupted.\n"


def test_help_names_every_behaviour(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["classify", "--help"]) == 0
    words = re.findall(r"\w+", capsys.readouterr().out)
    assert set(BEHAVIOURS) <= set(words)


@pytest.mark.parametrize(
    ("says", "commands"),
    [
        (
            "as the model was trained to read text, GPT-2 with one, Pythia and Qwen2.5 without",
            ["classify", "attribute", "view", "generate", "trace", "record"],
        ),
        (
            (
                "that a label says is exceeded: its one-sided p passes Benjamini and Hochberg over "
                "all heads and behaviours, at a false discovery rate of 5%."
            ),
            ["compare", "sweep", "stimuli", "dynamics", "atlas"],
        ),
    ],
)
def test_help_of_an_option_is_one_sentence_everywhere(
    says: str, commands: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for command in commands:
        assert run([command, "--help"]) == 0
        assert says in " ".join(capsys.readouterr().out.split())


def test_models_lists_the_seven(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models"]) == 0
    table = capsys.readouterr().out
    assert all(re.search(rf"^{re.escape(name)} ", table, re.MULTILINE) for name in MODELS)
    assert "toy-gpt2" not in table
    row = next(line for line in table.splitlines() if line.startswith("Qwen/Qwen2.5-0.5B "))
    assert row.split()[1:4] == ["Qwen2", "391M", "24×14"]


def test_models_all_says_where_each_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--all"]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line)
    assert set(known_models()) <= set(rows)
    assert rows["toy-gpt2"].split() == ["bundled", "yes", "open", "MIT"]
    assert rows["meta-llama/Llama-3.2-1B"].split()[:3] == ["hub", "no", "gated"]


def test_models_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--all", "--json"]) == 0
    records = {record["name"]: record for record in json.loads(capsys.readouterr().out)}
    assert set(records) == set(known_models())
    assert records["toy-opt"]["here"] is True
    assert records["gpt2"]["n_layers"] == 12


def test_describe_gives_the_facts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["describe", "toy-gpt-neo"]) == 0
    table = capsys.readouterr().out
    assert table.startswith("toy-gpt-neo\n")
    assert re.search(r"^attention +global, and local \(32 tokens\) in layers 1, 3$", table, re.M)
    assert re.search(r"^Q, K, V +without biases$", table, re.M)


def test_describe_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["describe", "toy-qwen2", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["n_heads"], facts["n_kv_heads"]) == (4, 2)
    assert facts["windows"] == [None] * facts["n_layers"]
    assert facts["attention_scope"] == "global"


def test_view_writes_a_page_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, picture = tmp_path / "page.html", tmp_path / "picture.png"
    files = ["--html", str(page), "--png", str(picture)]
    assert run(["view", "Mary and John", *TOY, "--heads", "L0H1", "2.0", *files]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [f"Wrote {page}", f"Wrote {picture}"]
    assert "L0H1" in page.read_text(encoding="utf-8")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_page_that_shows_part_of_a_long_prompt_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = ["--html", str(tmp_path / "page.html")]
    assert run(["classify", "and " * 150, "--behaviours", "previous_token", *TOY, *page]) == 0
    assert re.fullmatch(
        r"mi-toolkit: The page shows patterns of the first 96 of \d+ tokens.\n",
        capsys.readouterr().err,
    )


def test_no_bos_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["classify", "a b c d e f g h i j", "--no-bos", *TOY, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["provenance"]["bos"] == {"prompt": "none"}


def test_every_other_option_of_classify_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    read = ["--min-lift", "0.9", "--seed", "7", "--batch-size", "1", "--dtype", "bfloat16"]
    prompts = ["one two three four", "five six seven eight nine"]
    assert run(["classify", *prompts, *TOY, *read, "--device", "cpu", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["min_lift"] == 0.9
    assert record["provenance"]["seed"] == 7
    assert record["provenance"]["dtype"] == "bfloat16"
    assert record["behaviours"]["previous_token"]["n_sequences"] == 2


def test_a_file_of_prompts_is_swept_and_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, sums = tmp_path / "texts.txt", tmp_path / "made" / "sums.safetensors"
    texts.write_text(
        "\n".join(f"one two three, {n} one two\n" for n in range(12)), encoding="utf-8"
    )
    asked = ["classify", *TOY, "--data-file", str(texts), "--batch-size", "2", "--json"]
    assert run(asked) == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole["behaviours"]["previous_token"]["n_sequences"] == 12
    monkeypatch.setattr("mi_toolkit.core.resumable.PAUSE", 0)
    measure, measured = StimulusRun.measure, []

    def interrupted(stimulus_run: StimulusRun, batch: Batch) -> None:
        measured.append(batch)
        if len(measured) == 4:
            raise KeyboardInterrupt
        measure(stimulus_run, batch)

    monkeypatch.setattr(StimulusRun, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run([*asked, "--resume", str(sums)])
    assert run([*asked, "--resume", str(sums)]) == 0
    assert len(measured) == 4 + 3, "six batches, three of them done before"
    resumed = json.loads(capsys.readouterr().out)
    assert resumed == whole


def test_a_text_with_a_dash_and_a_value_with_one_are_read_where_the_help_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = ["--json", "--", "- I like cats, I like dogs and"]
    assert run(["attribute", "--target=-", "--method", "gradient_norm", *text]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "".join(told["tokens"][1:]) == text[-1]
    assert run(["--help"]) == 0
    told_by_all = " ".join(capsys.readouterr().out.split())
    assert "begins with a dash goes after --, after all options" in told_by_all
    for command in ("classify", "record", "sensitivity"):
        assert run([command, "--help"]) == 0
        assert "folders that are there: mi-toolkit --help" in " ".join(
            capsys.readouterr().out.split()
        )


def test_values_stand_apart_by_commas_as_by_spaces(capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for values in (["L0H0,L2H1", "L1H3"], ["L0H0", "L2H1", "L1H3"], ["L0H0, L2H1,L1H3"]):
        assert run(["ablate", "I like cats and I", "--json", "--components", *values]) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1] == told[2]
    assert len(told[0]["components"]) == 3


def test_files_of_a_folder_that_is_there_stay_and_those_of_the_same_names_are_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    (tmp_path / "heads.csv").write_text("old")
    command = ["classify", "I like cats and I like", "--behaviours", "induction", "--output"]
    assert run([*command, str(tmp_path), "--html", str(tmp_path / "a" / "b" / "page.html")]) == 0
    assert (tmp_path / "thesis.tex").read_text() == "x"
    assert "induction" in (tmp_path / "heads.csv").read_text()
    assert (tmp_path / "a" / "b" / "page.html").is_file()
