from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mi_toolkit as mi
from mi_toolkit.compare import lengths as module
from mi_toolkit.compare.lengths import of_length
from mi_toolkit.core.errors import ComparisonError, PromptError, ReportError, UnknownNameError
from mi_toolkit.core.stimuli import passages, repeated_random
from mi_toolkit.core.tokenizer import standard_beginning
from mi_toolkit.heads.report import ReportFile
from tests.models_here import loaded


@pytest.fixture(scope="module")
def sweep() -> mi.compare.LengthSweep:
    return mi.length_sweep(loaded("toy-gpt2"), [32, 16], n_sequences=8)


def test_a_sweep_is_separate_classifications(sweep: mi.compare.LengthSweep) -> None:
    model = loaded("toy-gpt2")
    assert sweep.lengths == (16, 32)
    ids = repeated_random(model, n_tokens=16, n_sequences=8).ids
    names = sweep.report("repeated_random", 32).behaviours
    alone = mi.classify_heads(model, ids, behaviours=names)
    for field in ("score", "null", "lift", "ci_low", "ci_high"):
        torch.testing.assert_close(
            getattr(sweep.report("repeated_random", 32), field),
            getattr(alone, field),
            rtol=0,
            atol=0,
            equal_nan=True,
        )


def test_every_sequence_has_exactly_the_length(sweep: mi.compare.LengthSweep) -> None:
    for (_, length), report in sweep.reports.items():
        (batch,) = report.tokens.values()
        assert set(batch.lengths.tolist()) == {length + 1}  # and a BOS
        assert batch.has_bos.all()


def test_the_second_half_of_random_tokens_is_the_first(sweep: mi.compare.LengthSweep) -> None:
    (batch,) = sweep.report("repeated_random", 16).tokens.values()
    assert torch.equal(batch.ids[:, 1:9], batch.ids[:, 9:])


def test_positional_is_not_measured_where_it_would_mislead(sweep: mi.compare.LengthSweep) -> None:
    assert not sweep.measured("positional", "repeated_random")
    assert sweep.measured("positional", "natural")
    assert "positional" in sweep.behaviours


def test_figures_and_labels_are_the_reports(sweep: mi.compare.LengthSweep) -> None:
    figures, holds = sweep.figures("induction", "natural"), sweep.holds("induction", "natural")
    assert figures.shape == holds.shape == (2, 4, 4)
    assert torch.equal(figures[1], sweep.report("natural", 32)["induction"])
    held = {str(mi.Head(l, h)) for l, h in holds[1].nonzero().tolist()}
    assert held == {str(head) for head in sweep.report("natural", 32).heads("induction")}


def test_the_table_has_a_row_per_stimulus_length_behaviour_and_head(
    sweep: mi.compare.LengthSweep,
) -> None:
    table = sweep.to_pandas()
    n_behaviours = sum(len(report.behaviours) for report in sweep.reports.values())
    assert len(table) == n_behaviours * 16
    assert set(table["stimulus"]) == {"repeated_random", "natural"}
    row = table[
        (table["stimulus"] == "natural")
        & (table["length"] == 32)
        & (table["behaviour"] == "induction")
        & (table["name"] == "L2H0")
    ].squeeze()
    report = sweep.report("natural", 32)
    assert row["lift"] == pytest.approx(float(report["induction"][2, 0]))
    assert row["null"] == pytest.approx(float(report.null[report.index("induction"), 2, 0]))


def test_the_label_table_says_at_which_lengths_a_label_holds(sweep: mi.compare.LengthSweep) -> None:
    rows = {
        (row["stimulus"], row["label"], row["head"]): row
        for row in sweep.label_table().to_dict("records")
    }
    row = rows["repeated_random", "previous_token", "L0H0"]
    assert (row["lengths"], row["everywhere"]) == ("16 32", True)
    assert row["at_32"] == pytest.approx(
        float(sweep.report("repeated_random", 32)["previous_token"][0, 0])
    )


def test_an_interrupted_sweep_goes_on_where_it_stopped(
    tmp_path: Path, sweep: mi.compare.LengthSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, classify, calls = loaded("toy-gpt2"), module.classify_heads, []

    def interrupted(*args: object, **kwargs: object) -> object:
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(args)
        return classify(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "classify_heads", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mi.length_sweep(model, [16, 32], n_sequences=8, folder=tmp_path)
    with pytest.raises(ReportError, match="No length sweep at"):
        mi.compare.LengthSweep.load(tmp_path)
    calls.clear()
    resumed = mi.length_sweep(model, [16, 32], n_sequences=8, folder=tmp_path)
    assert len(calls) == 1
    assert resumed.to_pandas().equals(sweep.to_pandas())
    assert mi.compare.LengthSweep.load(tmp_path).to_pandas().equals(sweep.to_pandas())


@pytest.mark.parametrize("change", [{"seed": 1}, {"min_lift": 0.5}, {"n_sequences": 9}])
def test_a_report_of_another_protocol_is_not_taken(
    change: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {"behaviours": "induction", "n_sequences": 8, "folder": tmp_path}
    mi.length_sweep(loaded("toy-gpt2"), [16], **asked)  # type: ignore[arg-type]
    monkeypatch.setattr(module, "classify_heads", lambda *_, **__: pytest.fail("measured again"))
    mi.length_sweep(loaded("toy-gpt2"), [16], **asked)  # type: ignore[arg-type]
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        mi.length_sweep(loaded("toy-gpt2"), [16], **asked | change)  # type: ignore[arg-type]


def test_the_folder_of_another_model_or_of_other_weights_is_refused(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"behaviours": "induction", "n_sequences": 8, "folder": tmp_path}
    mi.length_sweep(loaded("toy-gpt2"), [16], **asked)
    before = (tmp_path / "manifest.json").read_bytes()
    tuned: Any = mi.load_model("toy-gpt2")
    with torch.no_grad():
        next(iter(tuned.parameters())).mul_(1.5)
    for model, named in ((loaded("toy-opt"), "model.name was 'toy-gpt2'"), (tuned, "weights was")):
        with pytest.raises(ReportError, match=f"holds another length sweep: .*{named}"):
            mi.length_sweep(model, [16], **asked)
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_own_text_is_cut_and_joined_to_length_and_never_read_twice() -> None:
    model = loaded("toy-gpt2")
    batch = of_length(
        model,
        passages(),
        n_tokens=500,
        n_sequences=100,
        beginning=standard_beginning(model),
    )
    starts = {tuple(batch.sequence(index)[1:9].tolist()) for index in range(len(batch))}
    encoded = [tuple(model.tokenizer.encode(text)[:8]) for text in passages()]
    assert len(starts) == len(batch)
    assert starts <= set(encoded)
    assert 20 < len(batch) < len(passages())


@pytest.mark.parametrize(
    ("lengths", "text", "error", "message"),
    [
        ([], None, ComparisonError, "Lengths are 4 tokens or more"),
        ([2, 16], None, ComparisonError, "Lengths are 4 tokens or more"),
        ([512], None, ComparisonError, "A length of 512 tokens does not fit.*511 next to the BOS"),
        ([16], "one two", PromptError, "The text has .* tokens .* too few for a sequence of 16"),
    ],
)
def test_lengths_that_cannot_be_are_errors(
    lengths: list[int], text: str | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        mi.length_sweep(loaded("toy-gpt2"), lengths, text=text, behaviours="induction")


def test_a_report_that_is_not_there_is_named(sweep: mi.compare.LengthSweep) -> None:
    with pytest.raises(UnknownNameError, match="repeated_random at 99"):
        sweep.report("repeated_random", 99)


def test_a_folder_whose_reports_are_of_another_format_is_refused_before_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("toy-gpt2")
    mi.length_sweep(model, [8], n_sequences=4, folder=tmp_path)
    monkeypatch.setattr(ReportFile, "FORMAT", "mi_toolkit head report 99")
    with pytest.raises(ReportError, match=r"report was .*head report 4.* and is .*report 99"):
        mi.length_sweep(model, [8], n_sequences=4, folder=tmp_path)
