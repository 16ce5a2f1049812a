"""Prompts of indirect object identification: what plays which part."""

from __future__ import annotations

import pytest
import torch

from mi_toolkit.core.errors import PromptError
from mi_toolkit.core.stimuli import NAMES, TEMPLATES, ioi_prompts
from mi_toolkit.core.vocabulary import single_token_ids
from tests.models_here import TOYS, loaded


@pytest.mark.parametrize("name", TOYS)
def test_roles_are_where_the_names_are(name: str) -> None:
    model = loaded(name)
    batch = ioi_prompts(model)
    known = {id_: word for word, id_ in single_token_ids(model.tokenizer, NAMES).items()}
    assert len(batch) == 64
    assert batch.has_bos.all()
    for index in range(len(batch)):
        ids, roles = batch.sequence(index), batch.roles_of(index)
        assert all(len(span) == 1 for span in roles.values())
        io, s1, s2, end, answer = (
            roles[role].start for role in ("io", "s1", "s2", "end", "answer")
        )
        named = [place for place, id_ in enumerate(ids.tolist()) if id_ in known]
        assert named == [*sorted([io, s1]), s2, answer]
        assert ids[s1] == ids[s2] != ids[io] == ids[answer]
        assert roles["s1_next"].start == s1 + 1
        assert answer == end + 1 == len(ids) - 1
        assert model.tokenizer.decode(ids[end : end + 1]).strip() == "to"


def test_half_of_the_prompts_have_the_indirect_object_first() -> None:
    roles = ioi_prompts(loaded("toy-gpt2")).roles
    first = roles["io"][:, 0] < roles["s1"][:, 0]
    assert int(first.sum()) == 32


def test_a_seed_decides_names_and_texts() -> None:
    model = loaded("toy-gpt2")
    assert ioi_prompts(model, seed=1).digest == ioi_prompts(model, seed=1).digest
    assert ioi_prompts(model, seed=1).digest != ioi_prompts(model, seed=2).digest


def test_every_template_names_both_before_the_subject_comes_again() -> None:
    for template in TEMPLATES:
        assert template.index("{first}") < template.index("{second}") < template.index("{s}")
        assert template.endswith(" to")


def test_a_tokenizer_that_splits_names_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mi_toolkit.core.stimuli.NAMES", ["Mary", "Xylophonia", "Bartholomew"])
    with pytest.raises(PromptError, match=r"has 1 of 3 English first names as single tokens"):
        ioi_prompts(loaded("toy-gpt2"))


def test_a_part_of_a_batch_keeps_its_roles() -> None:
    batch = ioi_prompts(loaded("toy-gpt2"), n_prompts=6)
    part = batch.part(2, 5)
    assert [part.roles_of(index) for index in range(3)] == [batch.roles_of(i) for i in (2, 3, 4)]
    assert torch.equal(part.ids[0, : part.lengths[0]], batch.sequence(2))
