"""A label is a hypothesis: ablation tests it.

1. A claim is that some heads do something; it names the predictions whose loss would show it.
2. The heads are ablated, and next to them random sets with as many heads in each layer.
3. The loss change of the labelled set is ranked among those of the random sets; the label survives
   where few of them reach it, over all labels tested, and the stimulus leaves no doubt about it.

The random sets answer "heads of these layers, whatever they do": a change without them would only
say that the model uses its heads. That a label survives shows that the heads matter for these
predictions more than their neighbours do, not that attention of the kind is how: the predictions of
induction need the previous-token head under it just as much. That it fails does not show that the
heads are idle: others may stand in for them (self-repair), or the stimulus may not need them.
"""
