"""What attention heads do.

`masks`, `scores`, `intervals`, `labels` are pure: tensors in, tensors out. `behaviours` is the
table that names them. `plan` reads the tokens, `measure` and `patterns` a running model, `summary`
and `report` the outcome; `classify` holds `classify_heads`, which goes through them in turn.
"""
