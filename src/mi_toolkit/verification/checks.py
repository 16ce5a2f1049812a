"""The table of checks: functions with one signature, in the order in which they are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from mi_toolkit.verification.attention import attention_mask, attention_patterns, attention_rows
from mi_toolkit.verification.cache import cache_shape, cache_steps
from mi_toolkit.verification.completions import coherence_loss, coherence_repetition
from mi_toolkit.verification.logits import logits
from mi_toolkit.verification.outcome import Outcome
from mi_toolkit.verification.parts import qk_norm, qkv_bias, rope_scaling
from mi_toolkit.verification.positions import positions_shifted, positions_stretched
from mi_toolkit.verification.subject import Subject
from mi_toolkit.verification.weights import weights

Check = Callable[[Subject], Outcome]

CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "weights": weights,
        "logits": logits,
        "cache_shape": cache_shape,
        "cache_steps": cache_steps,
        "attention_rows": attention_rows,
        "attention_mask": attention_mask,
        "attention_patterns": attention_patterns,
        "positions_shifted": positions_shifted,
        "positions_stretched": positions_stretched,
        "qkv_bias": qkv_bias,
        "qk_norm": qk_norm,
        "rope_scaling": rope_scaling,
        "coherence_loss": coherence_loss,
        "coherence_repetition": coherence_repetition,
    }
)
"""The checks by name."""
