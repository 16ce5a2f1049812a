"""Workers on a cluster of Ray: the only door to it.

1. Each worker is an actor: a process that keeps a model and does one piece of work at a time. Ray
   places it where there are cores, memory for the model, and a GPU of its own where there are any.
2. A worker whose memory is for other models than those that are left makes room for another.
3. One that dies, or whose node does, gives its piece back, and another takes its place.

Scheduling, nodes and their deaths are Ray's. A cluster that this call starts has no dashboard,
listens on loopback, sends nothing anywhere, and ends with the call.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from mi_toolkit.core.errors import SweepError, in_one_line
from mi_toolkit.core.provenance import installed_versions
from mi_toolkit.core.tl_compat import import_lightly
from mi_toolkit.sweeps.results import SweepSettings
from mi_toolkit.sweeps.run import Outcome, Queue, Work, Worker

try:
    import ray
    from ray._private import ray_constants
    from ray._private.node import Node
    from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
except ImportError as error:
    raise SweepError(
        "Workers need Ray, which is not installed: pip install 'mi-toolkit[ray]'. With "
        "workers=None this process does all by itself."
    ) from error

logger = logging.getLogger("mi_toolkit")

STARTS = 3
"""Tries to start a cluster; and workers in a row that may die before they are ready."""

PATIENCE = 60.0
"""Seconds without a worker after which the log says what they wait for."""


class SweepWorker(Worker):
    """A worker in a process of its own."""

    def ready(self) -> dict[str, str]:
        """The versions that are installed there, once what a model needs is imported."""
        import_lightly()
        return super().ready()


@dataclass(eq=False)
class _Slot:
    """A worker, and what it is at."""

    actor: Any
    n_bytes: int
    """Memory that is kept for it."""

    call: Any
    """What it was last asked, until the answer is there; None where it has nothing to do."""

    work: Work | None = None
    """What it does; None until it is ready."""

    model: tuple[Any, ...] | None = None
    """What it has loaded."""


@contextmanager
def connected(address: str | None, *, cpus: int | None) -> Iterator[None]:
    """Inside, this process is of a cluster: the one it is of, that at `address`, or its own.

    Raises:
        SweepError: there is no cluster at `address`.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # What Ray will do from its next release on: leave CUDA_VISIBLE_DEVICES to who set it.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    for left in reversed(range(STARTS)):
        try:
            _connect(address, cpus)
            break
        except Exception as error:  # where a node does not start in time, Ray raises just that
            ray.shutdown()
            _end_half_started(error)
            if address is None and left:
                continue  # a busy machine takes more than the half minute that Ray waits
            where = "here" if address is None else f"at {address!r}"
            raise SweepError(
                f"No Ray cluster {where}: {in_one_line(error)} Start one with "
                "'ray start --head', or leave address= out for one of this machine."
            ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _end_half_started(error: Exception) -> None:
    """End the processes of a node that did not start in time: Ray forgets them."""
    trace = error.__traceback__
    while trace is not None:
        node = trace.tb_frame.f_locals.get("self")
        if isinstance(node, Node):
            node.kill_all_processes(check_alive=False)
        trace = trace.tb_next


def _connect(address: str | None, cpus: int | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is not None:
        ray.init(address=address, **quiet)
        return
    with _on_loopback():
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """A cluster that is started inside listens on 127.0.0.1 alone.

    As Ray itself does where a cluster is this machine's: on macOS and Windows. Elsewhere it listens
    on every interface, to whoever comes.
    """
    name, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    set_before = os.environ.get(name)
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        if set_before is None:
            del os.environ[name]
        else:
            os.environ[name] = set_before


def on_cluster(
    queue: Queue,
    given: tuple[str, str, SweepSettings],
    *,
    workers: int | str,
    address: str | None,
    gpus_per_worker: float | None,
    mixed_versions: bool,
    options: Mapping[str, Any],
) -> Generator[tuple[Work, Outcome]]:
    """Do what is in the queue, and what comes into it, with workers; each piece as it is done.

    Args:
        queue: what is to be done.
        given: what a `Worker` is made with.
        workers: how many, or "auto".
        address: of a cluster; None for one of this machine.
        gpus_per_worker: None for one where there are any.
        mixed_versions: whether workers may have other versions than this process.
        options: further ones of the actors.

    Raises:
        SweepError: no such cluster; workers with other versions, or that cannot be started.
    """
    if not (workers == "auto" or (isinstance(workers, int) and workers >= 1)):
        raise SweepError(f"workers is a number, 1 or more, 'auto', or None; not {workers!r}.")
    threads = given[2].threads
    with connected(address, cpus=None if workers == "auto" else int(workers) * threads):
        resources = ray.cluster_resources()
        if gpus_per_worker is None:
            on_cpu = str(given[2].load.get("device", "")).startswith("cpu")
            gpus_per_worker = 1.0 if resources.get("GPU") and not on_cpu else 0.0
        if workers == "auto":
            by_gpu = resources.get("GPU", 0) // gpus_per_worker if gpus_per_worker else None
            workers = int(by_gpu or max(1, resources.get("CPU", 1) // threads))
        asked = {"num_cpus": threads, "num_gpus": gpus_per_worker, "max_restarts": 0, **options}
        pool = _Pool(queue, given, int(workers), asked, mixed_versions=mixed_versions)
        try:
            yield from pool.run()
        finally:
            pool.close()


class _Pool:
    """The workers of a sweep."""

    def __init__(
        self,
        queue: Queue,
        given: tuple[str, str, SweepSettings],
        n: int,
        options: Mapping[str, Any],
        *,
        mixed_versions: bool,
    ) -> None:
        self.queue, self.given, self.n, self.options = queue, given, n, options
        self.mixed_versions = mixed_versions
        self.slots: list[_Slot] = []
        self._failed_starts = 0
        self._room = [node["Resources"] for node in ray.nodes() if node["Alive"]]

    def run(self) -> Generator[tuple[Work, Outcome]]:
        """Each piece as it is done, until nothing waits and nothing runs."""
        while True:
            yield from self._too_large()
            self._assign()
            if not self.queue.waiting and not any(slot.work for slot in self.slots):
                return
            for slot in self._answered():
                done = self._taken(slot)
                if done is not None:
                    yield done

    def close(self) -> None:
        """End all workers."""
        for slot in self.slots:
            ray.kill(slot.actor)
        self.slots.clear()

    def _too_large(self) -> Iterator[tuple[Work, Outcome]]:
        """What no node has room for fails, by name: Ray would wait for such a node for ever."""
        most = max(node.get("memory", 0) for node in self._room)
        for work in [each for each in self.queue.waiting if each.n_bytes > most]:
            self.queue.waiting.remove(work)
            needed, there = work.n_bytes / 2**30, most / 2**30
            reason = f"it takes about {needed:.1f} GiB, and no node has more than {there:.1f} GiB"
            yield work, Outcome(error=f"{reason} for it")

    def _assign(self) -> None:
        """Give every idle worker something to do, and start workers for what waits."""
        for slot in [each for each in self.slots if each.call is None]:
            busy = [other.model for other in self.slots if other.model and other is not slot]
            work = self.queue.take(slot.model, busy=busy, fits=partial(_serves, slot))
            if work is not None:
                slot.work, slot.model = work, work.model
                slot.call = slot.actor.do.remote(work)
            elif self.queue.waiting:
                self._end(slot)
        starting = sum(slot.work is None for slot in self.slots)
        missing = min(self.n - len(self.slots), len(self.queue.waiting) - starting)
        for work in self.queue.waiting[: max(0, missing)]:
            made: Any = ray.remote(SweepWorker)  # what Ray adds to a class, its types do not know
            actor = made.options(memory=work.n_bytes, **self.options).remote(*self.given)
            self.slots.append(_Slot(actor, work.n_bytes, actor.ready.remote()))

    def _answered(self) -> list[_Slot]:
        """The workers that have answered; at least one of them."""
        calls = {slot.call: slot for slot in self.slots if slot.call is not None}
        while True:
            ready, _ = ray.wait([*calls], num_returns=1, timeout=PATIENCE)
            if ready:
                return [calls[call] for call in ready]
            if not any(slot.work for slot in self.slots):
                first = self.slots[0]
                logger.warning(
                    "No worker has a place yet: each waits for %s, with %.1f GiB; free are %s.",
                    {k: v for k, v in self.options.items() if k in ("num_cpus", "num_gpus")},
                    first.n_bytes / 2**30,
                    ray.available_resources(),
                )

    def _taken(self, slot: _Slot) -> tuple[Work, Outcome] | None:
        """What a worker answered, or that it died."""
        call, slot.call = slot.call, None
        work = slot.work
        try:
            answer = ray.get(call)
        except RayTaskError as error:
            raise SweepError(f"A worker failed: {in_one_line(error.cause)}") from error
        except (RayActorError, OutOfMemoryError) as error:
            self.slots.remove(slot)
            reason = in_one_line(error)
            if work is not None:
                outcome = self.queue.died(work, reason)
                return None if outcome is None else (work, outcome)
            self._failed_starts += 1
            if self._failed_starts >= STARTS:
                raise SweepError(f"{STARTS} workers could not start: {reason}") from error
            return None
        if work is None:
            self._failed_starts = 0
            self._check_versions(answer)
            return None
        slot.work = None
        return work, answer

    def _check_versions(self, versions: Mapping[str, str]) -> None:
        own = installed_versions()
        differ = [
            f"{name} {versions.get(name)} there and {own[name]} here"
            for name in own
            if versions.get(name) != own[name]
        ]
        if differ and not self.mixed_versions:
            raise SweepError(
                f"A worker has other versions: {', '.join(differ)}. Install the same everywhere, "
                "or pass mixed_versions=True, and provenance says which did what."
            )

    def _end(self, slot: _Slot) -> None:
        self.slots.remove(slot)
        ray.kill(slot.actor)


def _serves(slot: _Slot, work: Work) -> bool:
    """Whether a worker has the memory for a piece of work, and not far more than it needs."""
    return work.n_bytes <= slot.n_bytes <= 2 * max(work.n_bytes, 2**30)
