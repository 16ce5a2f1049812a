"""`mi-toolkit app`: the web page, served on this machine."""

from __future__ import annotations

import os
import socket
from importlib.util import find_spec
from typing import Annotated

from cyclopts import Parameter

from mi_toolkit.cli.options import Count, CountOrNone, Several, Switch
from mi_toolkit.cli.terminal import UsageError, doing, third_parties_kept_off_stdout
from mi_toolkit.core.errors import MIToolkitError
from mi_toolkit.models.sources import find_source


def port_number(_: object, value: int) -> None:
    """Check an option that is a port to listen on."""
    if not 0 <= value <= 65535:
        raise ValueError("Must be between 0 and 65535.")


def web_page(
    *,
    host: str = "127.0.0.1",
    port: Annotated[int, Parameter(validator=port_number)] = 7860,
    public: Switch = False,
    allow_hosts: Several[str] = None,
    allow_models: Several[str] = None,
    allow_local: Switch = False,
    allow_hub: Switch = False,
    max_model_bytes: CountOrNone = None,
    disk: float | None = None,
    lend_token: Switch = False,
    memory: float | None = None,
    most_tokens: Count = 128,
    open_browser: Switch = False,
) -> None:
    """Serve the web page: choose a model, type a prompt, Analyze, and ask why.

    It needs the extra app: pip install "mi-toolkit[app]". The page asks no other host for
    anything. Ctrl-C stops it.

    Args:
        host: Address to listen on. 127.0.0.1 is this machine alone; 0.0.0.0 lets everybody in who
            can reach it, and means --public.
        port: Port to listen on; 0 for any that is free.
        public: Strangers may come: load only allowed models, or else those that are here.
        allow_hosts: Names by which visitors reach a public server, such as app.example.org. Its
            number and the machine's own name are known.
        allow_models: The only models that may be loaded. Without it: the known ones, and any id of
            the hub.
        allow_local: Let visitors type in folders and files of this machine. Never with --public.
        allow_hub: With --public: let visitors have any model of the hub downloaded.
        max_model_bytes: The largest download. With --public 2 GiB, else any.
        disk: GiB that the hub's cache may fill by downloads. With --public 10, else any.
        lend_token: With --public: download with your token of the hub, gated models too.
        memory: GiB that models and results may fill together. Without it: half of what is free now.
        most_tokens: Tokens of the longest prompt.
        open_browser: Open the page in this machine's browser.
    """
    for name, given in {"--memory": memory, "--disk": disk}.items():
        if given is not None and given <= 0:
            raise UsageError(msg=f"{name} is a number of GiB above 0.")
    _check_host(host)
    for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ.pop(name, None)  # the page shows what they count, whatever standard error is
    with doing("Starting the page"), third_parties_kept_off_stdout():
        _require_gradio()
        from mi_toolkit.app.dashboard import build, is_loopback
        from mi_toolkit.app.settings import Settings

        for name in allow_models or []:
            find_source(name)
        settings = Settings(
            public=public or not is_loopback(host),
            hosts=tuple(allow_hosts or ()),
            allow_models=tuple(allow_models or ()),
            allow_local=allow_local,
            allow_hub=allow_hub,
            max_model_bytes=max_model_bytes,
            disk=_bytes(disk),
            lend_token=lend_token,
            memory=_bytes(memory),
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
                f"Nothing can listen on {host}:{port}: the port is taken, or the address is not "
                "this machine's. Another port: --port 0."
            ) from error
    print(f"The page is at {address} (Ctrl-C stops it).", flush=True)
    with third_parties_kept_off_stdout():
        page.block_thread()


def _check_host(host: str) -> None:
    """Check that the address to listen on is one, before the seconds that the page takes to build.

    Raises:
        UsageError: it is a name that nobody knows.
    """
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        raise UsageError(
            msg=f"No address is called {host!r}: --host takes one of this machine, such as "
            "127.0.0.1."
        ) from None


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else int(gib * 2**30)


def _require_gradio() -> None:
    if find_spec("gradio") is None:
        raise MIToolkitError('The page needs gradio: pip install "mi-toolkit[app]"')


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
