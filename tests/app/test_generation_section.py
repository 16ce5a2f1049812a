from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from mi_toolkit import generate
from mi_toolkit.app.context import analyse
from mi_toolkit.app.generation_section import (
    Written,
    generation_code,
    generation_saveable,
    tree_part,
)
from mi_toolkit.app.settings import Settings
from mi_toolkit.text.generation import Sampling
from tests.app.ran import check_files, ran
from tests.models_here import loaded

HOSTILE = "</script><img src=x onerror=alert(1)> Mary"


@pytest.mark.parametrize("sampling", [None, Sampling(temperature=0.8, top_k=20, seed=3)])
def test_the_code_writes_the_same_and_the_files_load(
    tmp_path: Path, sampling: Sampling | None
) -> None:
    model = loaded("toy-gpt2")
    found = analyse(model, "toy-gpt2", HOSTILE, num_beams=3, max_new_tokens=4, settings=Settings())
    written = generate(model, HOSTILE, num_beams=3, max_new_tokens=4, sampling=sampling)
    done = Written(analysis=found, generation=written)
    pd.testing.assert_frame_equal(ran(generation_code(done)), written.to_pandas("alternatives"))
    check_files(generation_saveable(done), tmp_path, said="&lt;/script&gt;")


def test_one_beam_has_no_tree() -> None:
    assert "<svg" in tree_part(generate(loaded("toy-gpt2"), "Mary", num_beams=2, max_new_tokens=2))
    alone = tree_part(generate(loaded("toy-gpt2"), "Mary", max_new_tokens=2))
    assert alone.startswith("<p>One beam: the most probable token at every step.")
    drawn = generate(loaded("toy-gpt2"), "Mary", max_new_tokens=2, sampling=Sampling(seed=1))
    assert tree_part(drawn).startswith("<p>One beam: a token that was drawn at every step.")
