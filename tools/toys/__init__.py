"""The parts of `tools/train_toys.py`: text, tokenizer, rows, architectures, training, card."""
