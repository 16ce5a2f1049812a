"""`mi-toolkit app`: the web page, served on this machine."""

from __future__ import annotations

import os
import socket
from importlib.util import find_spec
from typing import Annotated

from cyclopts import Parameter

from mi_toolkit.cli.errors import UsageError
from mi_toolkit.cli.options import Several, Switch, at_least_one
from mi_toolkit.cli.terminal import doing, third_parties_kept_off_stdout
from mi_toolkit.core.errors import MIToolkitError
from mi_toolkit.models.sources import find_source

Count = Annotated[int, Parameter(validator=at_least_one)]


def web_page(
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    allow_models: Several[str] = None,
    allow_local: Switch = False,
    memory: float | None = None,
    most_tokens: Count = 128,
    open_browser: Switch = False,
) -> None:
    """Serve the web page: choose a model, type a prompt, Analyze, and ask why.

    It needs the extra app: pip install "mi-toolkit[app]". The page asks no other host for
    anything. Ctrl-C stops it.

    Args:
        host: Address to listen on. 127.0.0.1 is this machine alone; 0.0.0.0 lets everybody in who
            can reach it.
        port: Port to listen on; 0 for any that is free.
        allow_models: The only models that may be loaded. Without it: the known ones, and any id of
            the hub.
        allow_local: Let visitors type in folders and files of this machine.
        memory: GiB that loaded models may fill together. Without it: half of what is free now.
        most_tokens: Tokens of the longest prompt.
        open_browser: Open the page in this machine's browser.
    """
    if memory is not None and memory <= 0:
        raise UsageError(msg="--memory is a number of GiB above 0.")
    for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ.pop(name, None)  # the page shows what they count, whatever standard error is
    with doing("Starting the page"), third_parties_kept_off_stdout():
        _require_gradio()
        from mi_toolkit.app.dashboard import build
        from mi_toolkit.app.settings import Settings

        for name in allow_models or []:
            find_source(name)
        settings = Settings(
            allow_models=tuple(allow_models or ()),
            allow_local=allow_local,
            memory=None if memory is None else int(memory * 2**30),
            most_prompt_tokens=most_tokens,
        )
        page = build(settings)
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port or _free_port(host),
                inbrowser=open_browser,
                quiet=True,
                prevent_thread_lock=True,
            )
        except OSError as error:
            raise MIToolkitError(
                f"Nothing can listen on {host}:{port} ({error}). Another port: --port 0."
            ) from None
    print(f"The page is at {address} (Ctrl-C stops it).", flush=True)
    with third_parties_kept_off_stdout():
        page.block_thread()


def _require_gradio() -> None:
    if find_spec("gradio") is None:
        raise MIToolkitError('The page needs gradio: pip install "mi-toolkit[app]"')


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
