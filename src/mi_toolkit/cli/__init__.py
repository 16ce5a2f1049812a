"""The command `mi-toolkit`. It parses, calls and shows; every figure comes from the library.

- `app`: the commands, their help, the entry point, exit codes; `help`: the look of it.
- one module to a command or to a pair of them (`record` with `activations`, `models` with
  `describe`, `compare` with `stimuli`);
- `options`: what several commands share; `output`: what is written and how text is laid out;
  `terminal`: width, emphasis, notes; `report_text`, `comparison_text`: results to read.
"""
