"""The curriculum that all five models share."""

from toys.training import Phase

ADAMW_RATE = 2e-3

MUON_RATES = {"toy-gpt-neo": 2e-3}
MUON_RATE = 5e-3
"""Of the others. GPT-Neo does not divide attention logits by the root of the head width."""

SCAFFOLD = {
    (0, 0): "previous_token",
    (2, 0): "induction",
    (2, 2): "first_token",
    (0, 2): "first_token",
}
"""What the attention loss pushes heads (layer, head) towards.

All in layers that are global in GPT-Neo: induction and the first token need more than a window
of 32. Two for the first token, since plain language modelling wears that one off; heads 2,
since under Qwen2's grouping heads 0 and 1 have the same keys.
"""

PHASES = (
    Phase(
        name="scaffold",
        steps=300,
        length=97,
        rows={"text": 5, "answers": 4, "repeat": 4, "pair": 3},
        scaffold=1.0,
        known_from=32,
    ),
    Phase(
        name="language",
        steps=450,
        length=129,
        rows={"text": 5, "answers": 5, "repeat": 2, "pair": 2},
        scaffold=0.05,
    ),
    Phase(
        name="long",
        steps=60,
        length=512,
        rows={"text": 1, "answers": 1, "repeat": 1, "pair": 1},
    ),
    Phase(
        name="settle",
        steps=200,
        length=161,
        rows={"text": 4, "answers": 4, "repeat": 2, "pair": 1},
        shifted=0.2,
    ),
)
