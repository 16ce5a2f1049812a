"""`occlusion`: F less F with the token's embedding replaced by the baseline, one token at a time.

No gradient and no approximation: each score is the effect of one real change. As many forward
passes as the prompt has tokens, batched.

After Zeiler and Fergus 2013, "Visualizing and Understanding Convolutional Networks"
(arXiv:1311.2901); Li et al. 2016, "Understanding Neural Networks through Representation Erasure"
(arXiv:1612.08220).

It misleads where tokens stand in for one another: of two mentions of a name either can go without
effect, and both score near 0. A prompt with a hole in it is also no prompt that the model knows.
"""

from __future__ import annotations

import torch

from mi_toolkit.attribution.question import Answer, Question


def occlusion(question: Question) -> Answer:
    """What each token's removal takes from F."""
    length, (_, whole) = len(question.ids), question.ends
    found = []
    with torch.no_grad():
        for part in question.in_batches(length, "occluding tokens"):
            places = torch.arange(length, device=question.embeddings.device)[part]
            rows = question.embeddings.repeat(len(places), 1, 1)
            rows[torch.arange(len(places)), places] = question.baseline[places]
            found.append(whole - question.values(rows).double())
    return Answer(scores=torch.cat(found))
