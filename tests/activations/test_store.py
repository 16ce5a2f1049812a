from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from torch.utils.data import DataLoader

import mi_toolkit as mi
from mi_toolkit.activations.store import writer
from mi_toolkit.activations.store.manifest import FOLDERS
from mi_toolkit.core.errors import (
    ActivationsError,
    HookError,
    PromptError,
    StoreError,
    UnknownNameError,
)
from mi_toolkit.core.provenance import installed_versions
from mi_toolkit.core.tokens import TokenBatch
from tests.activations import killed
from tests.models_here import TOYS, loaded

TEXTS = [
    "The cat sat on the mat.",
    "",
    "one",
    "When Mary and John went to the store",
    "a b c d e f",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> mi.activations.ActivationStore:
    folder = tmp_path_factory.mktemp("stores") / "store"
    names = ["resid_post", ("z", 1)]
    return mi.record_to_disk(loaded("toy-gpt2"), TEXTS, names, folder, batch_size=2, shard_size=12)


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("name", TOYS)
def test_a_store_holds_what_record_gives(name: str, tmp_path: Path) -> None:
    model = loaded(name)
    names = ["resid_post", "mlp_post", "k"]
    store = mi.record_to_disk(model, TEXTS, names, tmp_path / "s", batch_size=1, shard_size=10)
    spoken = [text for text in TEXTS if text]
    recorded = mi.record(model, spoken, names, batch_size=1)
    assert store.names == tuple(recorded)
    for hook in store.names:
        assert torch.equal(store.read(hook), recorded.rows(hook))
    index, table = store.index(), recorded.row_table()
    assert index.position.tolist() == table.position.tolist()
    assert index.token.tolist() == table.token_id.tolist()
    assert index.document.map({0: 0, 2: 1, 3: 2, 4: 3}).tolist() == table.prompt.tolist()


def test_shards_are_of_whole_batches_and_hold_all_rows_once(
    store: mi.activations.ActivationStore,
) -> None:
    assert len(store.manifest.shards) > 1
    assert sum(shard.rows for shard in store.manifest.shards) == len(store) == len(store.index())
    assert all(shard.rows >= 12 for shard in store.manifest.shards[:-1])
    assert store.complete
    assert (store.n_documents, store.manifest.place.empty) == (5, 1)


def test_slices_by_document_and_position_are_those_rows(
    store: mi.activations.ActivationStore,
) -> None:
    everything, index = store.read(("z", 1)), store.index()
    by_document = store.read("z", document=3)
    assert torch.equal(by_document, everything[torch.tensor(index.document.to_numpy() == 3)])
    without_bos = store.rows(position=slice(1, None))
    assert (index.position.to_numpy()[without_bos] > 0).all()
    assert torch.equal(store.read("z", without_bos), everything[without_bos])
    for from_the_end in (slice(-2, None), slice(1, -1)):
        with pytest.raises(StoreError, match="To leave out or take what is last, record with"):
            store.rows(position=from_the_end)
    both = store.read("z", document=[0, 3], position=2)
    assert len(both) == 2
    assert len(store.read("z", document=1)) == 0
    for rows in (slice(3, 20), slice(None, None, 3), slice(-4, None), slice(9, 2, -2), slice(7, 3)):
        wanted = torch.arange(len(store)).numpy()[rows]
        assert torch.equal(store.read("z", rows), everything[wanted.copy()])
    mixed = torch.tensor([len(store) - 1, 0, 5, 0])
    assert torch.equal(store.read("z", mixed), everything[mixed])


def test_reading_some_rows_maps_and_does_not_read_the_rest(tmp_path: Path) -> None:
    model = loaded("toy-gpt2")
    store = mi.record_to_disk(
        model, TEXTS, "resid_post", tmp_path / "s", batch_size=1, shard_size=1
    )
    for shard in store.manifest.shards[1:]:
        path = store.folder / shard.tensors
        path.write_bytes(b"\xff" * path.stat().st_size)
    again = mi.open_activations(tmp_path / "s")
    assert len(again.read(("resid_post", 0), document=0)) == again.manifest.shards[0].rows


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda s: s.read("q"), UnknownNameError, "the store of toy-gpt2 has no activation"),
        (lambda s: s.read("resid_post"), UnknownNameError, "stands for 4 activations of this"),
        (lambda s: s.read("z", document=5), StoreError, "no document 5: they are 0 to 4"),
        (lambda s: s.read("z", torch.tensor([999])), StoreError, "Rows of this store are 0 to"),
        (lambda s: s.read("z", slice(3), document=1), StoreError, "not both"),
    ],
)
def test_what_the_store_does_not_have_is_an_error(store, ask, error, message: str) -> None:
    with pytest.raises(error, match=message):
        ask(store)


def test_an_epoch_holds_every_row_once_in_an_order_of_the_seed(store) -> None:
    epochs = list(store.batches("z", 7, seed=3, epochs=2))
    half = len(epochs) // 2
    orders = [torch.cat([b.rows for b in part]) for part in (epochs[:half], epochs[half:])]
    for order in orders:
        assert sorted(order.tolist()) == list(range(len(store)))
    assert not torch.equal(*orders)
    everything = store.read("z")
    assert all(torch.equal(b.values, everything[b.rows]) for b in epochs)
    again = torch.cat([b.rows for b in store.batches("z", 7, seed=3)])
    assert torch.equal(again, orders[0])
    assert not torch.equal(torch.cat([b.rows for b in store.batches("z", 7, seed=4)]), orders[0])
    chosen = store.rows(position=slice(1, None))
    seen = torch.cat([b.rows for b in store.batches("z", 4, rows=chosen)])
    assert sorted(seen.tolist()) == chosen.tolist()
    assert all(len(b.rows) == 7 for b in store.batches("z", 7, drop_last=True))


def test_a_batch_mixes_documents_of_several_shards(store) -> None:
    first = next(store.batches("z", 16, seed=0))
    assert len(set(store.index().document.to_numpy()[first.rows])) > 2


@pytest.mark.slow
@pytest.mark.parametrize("context", [None, "fork", "spawn"])
def test_a_data_loader_reads_every_row_once(store, context: str | None) -> None:
    dataset = store.dataset(("resid_post", 2))
    assert torch.equal(dataset[5], store.read(("resid_post", 2))[5])
    with pytest.raises(IndexError, match="This dataset has"):
        dataset[len(store)]
    workers = {} if context is None else {"num_workers": 1, "multiprocessing_context": context}
    loader = DataLoader(dataset, batch_size=6, shuffle=True, **workers)
    rows = torch.cat(list(loader))
    assert rows.shape == (len(store), 128)
    torch.testing.assert_close(rows.sum(0), store.read(("resid_post", 2)).sum(0))
    with_labels = store.dataset("z", rows=torch.tensor([3, 1]), transform=lambda row: (row, 1))
    assert torch.equal(with_labels[1][0], store.read("z")[1])


def test_other_readers_read_the_files(store) -> None:
    folder = store.folder
    index = pd.read_parquet(folder / "index")
    pd.testing.assert_frame_equal(index, store.index(), check_dtype=False)
    shard = safetensors.torch.load_file(folder / "shards/00000.safetensors")
    rows = store.manifest.shards[0].rows
    for hook in store.names:
        assert torch.equal(shard[hook], store.read(hook, slice(rows)))
    from safetensors.numpy import load_file

    assert np.array_equal(
        load_file(folder / "shards/00001.safetensors")["blocks.1.attn.hook_z"],
        store.read("z", slice(rows, None)).numpy()[: store.manifest.shards[1].rows],
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_precision_comes_back(dtype: torch.dtype, tmp_path: Path) -> None:
    model = loaded("toy-gpt2")
    store = mi.record_to_disk(model, TEXTS, ("z", 1), tmp_path / "s", dtype=dtype)
    spoken = [text for text in TEXTS if text]
    assert store.dtype == dtype
    assert torch.equal(store.read("z"), mi.record(model, spoken, ("z", 1), dtype=dtype).rows("z"))


def test_positions_are_chosen_before_storing(tmp_path: Path) -> None:
    model = loaded("toy-gpt2")
    last = mi.record_to_disk(model, TEXTS, ("z", 1), tmp_path / "a", positions="last", batch_size=1)
    spoken = [text for text in TEXTS if text]
    recorded = mi.record(model, spoken, ("z", 1), positions="last", batch_size=1)
    assert torch.equal(last.read("z"), recorded["z"])
    bare = mi.record_to_disk(model, TEXTS, ("z", 1), tmp_path / "b", positions=slice(1, None))
    assert 0 not in bare.index().position.to_numpy()
    with pytest.raises(PromptError, match="go with `record`"):
        mi.record_to_disk(model, TEXTS, "z", tmp_path / "c", positions=[[1], [2]])


@pytest.mark.parametrize("texts", [[], ["", "", ""]])
def test_texts_without_a_token_give_a_store_without_rows(texts: list[str], tmp_path: Path) -> None:
    store = mi.record_to_disk(loaded("toy-gpt2"), texts, ["z", "resid_post"], tmp_path / "s")
    assert len(store) == 0
    assert store.complete
    assert store.n_documents == len(texts)
    assert store.read(("z", 0)).shape == (0, 4, 32)
    assert list(store.batches(("z", 0), 4)) == []
    assert len(store.index()) == 0
    assert "0 rows of" in repr(store)


def test_a_document_of_one_token_has_one_row(tmp_path: Path) -> None:
    model = loaded("toy-gpt2")
    store = mi.record_to_disk(model, [[7], [8, 9]], "resid_post", tmp_path / "s")
    assert store.index().token.tolist() == [7, 8, 9]
    batch = TokenBatch(ids=torch.tensor([[7]]), lengths=torch.tensor([1]), bos_id=None)
    alone = mi.record(model, batch, ("resid_post", 1)).rows("resid_post")
    torch.testing.assert_close(store.read(("resid_post", 1), document=0), alone)


def test_a_long_document_keeps_its_number_and_counts_its_chunks(tmp_path: Path) -> None:
    model = loaded("toy-gpt2")
    texts = ["x", list(range(5, 35)), "y"]
    store = mi.record_to_disk(model, texts, "z", tmp_path / "s", max_length=8, prepend_bos=False)
    index = store.index()
    long = index[index.document == 1]
    assert long.token.tolist() == texts[1]
    assert long.chunk.tolist() == [i // 8 for i in range(30)]
    assert long.position.tolist() == [i % 8 for i in range(30)]
    assert "(1 split)" in repr(store)


RUNS = [("document", 2), ("document", 9), ("document", 17), ("shard", 2), ("bytes", 100_000)]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], tuple[Path, int]]:
    """Folders that runs were stopped in, each with the exit code."""
    root = tmp_path_factory.mktemp("stopped")
    folders = [root / f"{what}-{count}" for what, count in RUNS]
    asked = [
        str(part) for folder, run in zip(folders, RUNS, strict=True) for part in (folder, *run)
    ]
    done = subprocess.run(
        [sys.executable, killed.__file__, *asked], capture_output=True, text=True, check=True
    )
    codes = map(int, done.stdout.split())
    return dict(zip(RUNS, zip(folders, codes, strict=True), strict=True))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> mi.activations.ActivationStore:
    """What a run that nobody stops makes."""
    folder = tmp_path_factory.mktemp("whole") / "store"
    return mi.record_to_disk(loaded("toy-gpt2"), killed.TEXTS, path=folder, **killed.OPTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS[:-1], ids=str)
def test_a_killed_run_goes_on_to_the_same_bytes(
    run: tuple[str, int],
    stopped: dict[tuple[str, int], tuple[Path, int]],
    whole: mi.activations.ActivationStore,
) -> None:
    folder, code = stopped[run]
    assert code == -signal.SIGKILL, folder.with_suffix(".err").read_text()
    partial = mi.open_activations(folder, verify=True)
    assert not partial.complete
    assert "not complete" in repr(partial)
    for hook in partial.names:
        assert torch.equal(partial.read(hook), whole.read(hook, slice(len(partial))))
    mi.record_to_disk(loaded("toy-gpt2"), iter(killed.TEXTS), path=folder, **killed.OPTIONS)
    assert len(whole.manifest.shards) > 3
    assert files(folder) == files(whole.folder)


def test_a_file_system_that_takes_no_more_ends_with_an_error_and_a_store(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        check_full_disk(disk / "store")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def check_full_disk(folder: Path) -> None:
    model = loaded("toy-gpt2")
    with pytest.raises(StoreError, match=r"the disk is full.*are recorded and can be read"):
        mi.record_to_disk(model, killed.TEXTS, path=folder, **killed.OPTIONS)
    partial = mi.open_activations(folder, verify=True)
    assert len(partial) > 0
    assert not any(path.name.startswith(".") for path in folder.rglob("*"))
    assert len(partial.read(("resid_post", 0))) == len(partial)
    subprocess.run(["mount", "-o", "remount,size=4M", str(folder.parent)], check=True)
    store = mi.record_to_disk(model, killed.TEXTS, path=folder, **killed.OPTIONS)
    assert store.complete
    store.verify()


def test_a_writer_that_fails_ends_with_an_error_and_a_store(
    stopped: dict[tuple[str, int], tuple[Path, int]],
) -> None:
    folder, code = stopped["bytes", 100_000]
    said = folder.with_suffix(".err").read_text()
    assert code == 1
    assert "the disk is full" in said
    assert "0 rows of 0 documents are recorded" in said
    assert len(mi.open_activations(folder, verify=True)) == 0


def copied(store: mi.activations.ActivationStore, to: Path) -> Path:
    shutil.copytree(store.folder, to)
    return to


def test_a_flipped_bit_is_found_and_the_shard_named(store, tmp_path: Path) -> None:
    folder = copied(store, tmp_path / "s")
    shard = folder / "shards/00001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match=r"00001\.safetensors is damaged: its SHA-256 is"):
        mi.open_activations(folder, verify=True)
    mi.open_activations(folder)  # without reading it nobody knows


@pytest.mark.parametrize("file", ["shards/00001.safetensors", "index/00000.parquet"])
def test_a_missing_or_shortened_file_is_named_when_the_store_is_opened(
    store, file: str, tmp_path: Path
) -> None:
    folder = copied(store, tmp_path / "s")
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[:-9])
    with pytest.raises(StoreError, match=f"{Path(file).name} is damaged: it has .* bytes, and"):
        mi.open_activations(folder)
    (folder / file).unlink()
    with pytest.raises(StoreError, match=f"{Path(file).name} is missing"):
        mi.record_to_disk(
            loaded("toy-gpt2"),
            TEXTS,
            ["resid_post", ("z", 1)],
            folder,
            batch_size=2,
            shard_size=12,
        )


def test_what_is_no_store_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"it has no manifest\.json"):
        mi.open_activations(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match="is damaged"):
        mi.open_activations(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": "other"}')
    with pytest.raises(StoreError, match="is of no recording of activations"):
        mi.open_activations(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": torch.float16}, "dtype was 'float32' and is 'float16'"),
        ({"names": ["z"]}, "names was"),
        ({"batch_size": 3}, "batch_size was 2 and is 3"),
        ({"positions": slice(1, None)}, "positions was None and is '1::'"),
        ({"max_length": 20}, "max_length was 24 and is 20"),
        ({"resume": False}, "holds a recording already"),
        ({"texts": [*killed.TEXTS, "more"]}, "is complete, with 20 documents, and the texts go on"),
        ({"texts": [*killed.TEXTS[:-1], "other"]}, "are not those that were recorded"),
        ({"texts": killed.TEXTS[:9]}, "The texts end after 9 documents, but 20 were recorded"),
        ({"model": "toy-opt"}, "name was 'toy-gpt2' and is 'toy-opt'"),
    ],
)
def test_another_recording_is_not_continued(change: dict, message: str, tmp_path: Path) -> None:
    arguments = {"texts": killed.TEXTS, "path": tmp_path / "s", **killed.OPTIONS}
    mi.record_to_disk(loaded("toy-gpt2"), **arguments)
    before = files(tmp_path / "s")
    model = loaded(change.pop("model", "toy-gpt2"))
    with pytest.raises(StoreError, match=message):
        mi.record_to_disk(model, **arguments | change)
    assert files(tmp_path / "s") == before


def test_a_finished_recording_is_left_as_it_is(store) -> None:
    before = files(store.folder)
    names = ["resid_post", ("z", 1)]
    again = mi.record_to_disk(
        loaded("toy-gpt2"), TEXTS, names, store.folder, batch_size=2, shard_size=12
    )
    assert len(again) == len(store)
    assert files(store.folder) == before


def test_other_weights_under_the_same_name_are_another_model(tmp_path: Path) -> None:
    model = mi.load_model("toy-gpt2")
    mi.record_to_disk(model, TEXTS, "z", tmp_path / "s")
    with torch.no_grad():
        next(iter(model.parameters())).mul_(1.5)
    with pytest.raises(StoreError, match="weights was"):
        mi.record_to_disk(model, TEXTS, "z", tmp_path / "s")


def test_other_versions_are_another_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("toy-gpt2")
    mi.record_to_disk(model, TEXTS, "z", tmp_path / "s")
    now = {**installed_versions(), "torch": "9.9"}
    monkeypatch.setattr(writer, "installed_versions", lambda: now)
    with pytest.raises(StoreError, match=r"versions\.torch was .* and is '9\.9'\. Give another"):
        mi.record_to_disk(model, TEXTS, "z", tmp_path / "s")


def test_a_run_that_was_killed_before_its_first_manifest_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / ".manifest.json.draft-abc.json").write_text("{")
    assert mi.record_to_disk(loaded("toy-gpt2"), TEXTS, "z", tmp_path).complete
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_other_files_of_a_folder_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    for _ in range(2):  # the second goes on with what is there
        assert mi.record_to_disk(loaded("toy-gpt2"), TEXTS, "z", tmp_path).complete
    assert (tmp_path / "thesis.tex").read_text() == "x"


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_a_recording_would_clear_is_not_written_into(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").write_text("x")
    with pytest.raises(StoreError, match=f"{name} is there, and of no recording to go on with"):
        mi.record_to_disk(loaded("toy-gpt2"), TEXTS, "z", tmp_path)
    assert (tmp_path / name / "mine").read_text() == "x"


@pytest.mark.parametrize(
    ("names", "options", "error", "message"),
    [
        ("resid_pots", {}, UnknownNameError, "Did you mean 'resid_post'"),
        ("pattern", {}, ActivationsError, "a row of a pattern is as long as its sequence"),
        ("result", {}, HookError, "switched off"),
        ("z", {"batch_size": 0}, PromptError, "batch_size is"),
        ("z", {"shard_size": 0}, PromptError, "shard_size is"),
    ],
)
def test_a_recording_that_cannot_be_is_an_error_before_any_file(
    names: str, options: dict, error, message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        mi.record_to_disk(loaded("toy-gpt2"), TEXTS, names, tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


def test_a_shard_whose_header_lies_is_refused(tmp_path: Path) -> None:
    mi.record_to_disk(loaded("toy-gpt2"), ["one two three"], "resid_post", tmp_path, progress=False)
    (shard,) = (tmp_path / "shards").iterdir()
    content = shard.read_bytes()
    for wrong in (b"\xff" * 8 + content[8:], content[:8] + content[8:].replace(b"F32", b"I32", 1)):
        shard.write_bytes(wrong)
        with pytest.raises(StoreError, match="damaged"):
            mi.open_activations(tmp_path).read("blocks.0.hook_resid_post")
