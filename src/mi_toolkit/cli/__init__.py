"""The command `mi-toolkit`. It parses, calls and shows; every figure comes from the library.

- `main`: the entry point, exit codes and errors; `app`: the commands and their help.
- `models`, `describe`, `classify`, `view`: one command each.
- `options`: what several commands share; `layout` (pure) and `terminal`: how text is laid out;
  `report_text`, `report_json`: a `HeadReport` to read and to parse; `output`: files to write.
"""
