from __future__ import annotations

import pytest

from mi_toolkit.activations.names import glob, resolve, several
from mi_toolkit.core.errors import UnknownNameError

LAYERS = 12
KNOWN = [
    "hook_embed",
    *(
        f"blocks.{layer}.{hook}"
        for layer in range(LAYERS)
        for hook in ("hook_resid_post", "hook_out", "attn.hook_z", "attn.hook_out", "mlp.hook_post")
    ),
    "ln_final.hook_normalized",
]


def names(*wanted):
    return resolve(list(wanted), KNOWN, LAYERS, "a model")


def test_a_short_form_without_a_layer_is_that_of_every_layer_in_order() -> None:
    assert names("mlp_post") == tuple(f"blocks.{layer}.mlp.hook_post" for layer in range(LAYERS))


@pytest.mark.parametrize("name", [("z", 5), ("z", -7), "z5", ("z", [5]), "blocks.5.attn.hook_z"])
def test_one_layer_can_be_said_in_five_ways(name) -> None:
    assert names(name) == ("blocks.5.attn.hook_z",)


def test_a_pair_is_one_name_and_a_list_is_several() -> None:
    assert several(("z", 5)) == [("z", 5)]
    assert several(("z", "resid_post")) == ["z", "resid_post"]
    assert names(("z", [0, -1])) == ("blocks.0.attn.hook_z", "blocks.11.attn.hook_z")


def test_what_is_named_twice_comes_once_where_it_was_named_first() -> None:
    assert names(("z", 1), "embed", "z1") == ("blocks.1.attn.hook_z", "hook_embed")


def test_a_star_stays_between_two_dots_and_two_stars_do_not() -> None:
    assert len(names("blocks.*.hook_out")) == LAYERS
    assert len(names("blocks.**.hook_out")) == 2 * LAYERS
    assert names("blocks.[0-2].hook_out") == tuple(f"blocks.{l}.hook_out" for l in range(3))
    assert not glob("blocks.?.hook_out")("blocks.11.hook_out")


def test_layer_1_is_not_layer_11() -> None:
    assert names("blocks.1.*") == ("blocks.1.hook_resid_post", "blocks.1.hook_out")


def test_a_short_form_without_layers_is_one_hook() -> None:
    assert names("ln_final") == ("ln_final.hook_normalized",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "resid_pots",
            "called 'resid_pots'. Did you mean 'resid_post'",
        ),
        ("blocks.3.hook_zz", r"Did you mean 'blocks\.3\.hook_out'"),
        ("blocks.*.hook_pattern", "No activation of a model is called"),
        (("z", 12), r"no layer 12 in a model: they are 0 to 11, or -1 for the last"),
        (("embed", 0), "'embed' has no layer"),
        ("q", "a model has no activation that 'q' stands for. Known: embed, ln_final, resid_post"),
        ([], "The list of names is empty"),
    ],
)
def test_a_name_that_stands_for_nothing_is_an_error_with_the_way_out(name, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        resolve(name, KNOWN, LAYERS, "a model")
