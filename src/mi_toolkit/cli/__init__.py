"""The command `mi-toolkit`. It parses, calls and shows; every figure comes from the library.

- `app`: the commands, the look of their help, the entry point, exit codes.
- one module to a command or to those of one thing (`models` with `describe`, `plan` and `verify`,
  `atlas` with `head`, `record` with `activations`, `compare` with `stimuli`, `trace` with `view`,
  `sensitivity` with `super-weights`);
- `options`: what several commands share; `output`: what is written and how text is laid out;
  `terminal`: width, emphasis, notes; `report_text`: a report to read.
"""
