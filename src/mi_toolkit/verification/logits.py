"""Whether the hooked model computes what transformers computes."""

from __future__ import annotations

from mi_toolkit.floors import logit_floor
from mi_toolkit.verification.outcome import Outcome, at_most
from mi_toolkit.verification.subject import Subject


def logits(subject: Subject) -> Outcome:
    """Logits on natural text equal those of the model that nothing wraps."""
    theirs, ours = subject.reference_logits(), subject.logits()
    agree = (theirs.argmax(dim=-1) == ours.argmax(dim=-1)).float().mean()
    return at_most(
        logit_floor(subject.facts.dtype, theirs),
        float((ours - theirs).abs().max()),
        f"Largest difference of a logit to Hugging Face's own on {len(theirs)} tokens of text; the "
        f"largest logit is {float(theirs.abs().max()):.1f}, and {float(agree):.0%} of the most "
        "probable tokens agree.",
    )
