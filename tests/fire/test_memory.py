"""Too little memory, and memory over long runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mi_toolkit.core import memory
from mi_toolkit.core.errors import OutOfMemoryError
from mi_toolkit.core.memory import available_bytes, gigabytes, is_out_of_memory, left_of_group
from mi_toolkit.models.load import load_model
from mi_toolkit.sweeps.jobs import Job
from mi_toolkit.sweeps.run import bytes_needed
from tests.fire import long_run, short_of_memory
from tests.fire.own_process import lines_of

ESTIMATE = gigabytes(bytes_needed(Job(model="toy-gpt2", task="classify")))
TOLD = re.compile(
    r"(\w+)( on toy-gpt2)? takes [\d.]+ [MG]iB of memory or more \([\d.]+ [MG]iB in use, "
    r"[\d.]+ [MG]iB asked for at once\), and [\d.]+ [MG]iB are there\. Take .+\."
    rf"|classify on toy-gpt2 takes about {ESTIMATE} in float32, "
    r"and \d+ MiB are free here: take .+\."
)


def check_told(folder: Path, *jobs: str) -> None:
    found = lines_of(short_of_memory.__file__, folder, str(folder), *jobs)
    assert [each["job"] for each in found] == [*jobs]
    for each in found:
        message = str(each["message"])
        assert TOLD.fullmatch(message), message
        assert short_of_memory.JOBS[str(each["job"])][1] in message


@pytest.mark.fire
def test_every_long_job_tells_what_it_takes_and_what_takes_less(tmp_path: Path) -> None:
    check_told(tmp_path, *short_of_memory.JOBS)


@pytest.mark.fire
@pytest.mark.parametrize("job", long_run.JOBS)
def test_ten_thousand_prompts_take_the_memory_of_five_hundred(job: str, tmp_path: Path) -> None:
    (found,) = lines_of(long_run.__file__, tmp_path, job, "10000", "500")
    early, late = found["early"], found["late"]
    assert isinstance(early, dict)
    assert isinstance(late, dict)
    assert late["resident"] <= 1.1 * early["resident"], found
    assert (late["files"], late["threads"]) == (early["files"], early["threads"])


class Fails:
    """A model that asks for more memory than any machine has."""

    def __init__(self) -> None:
        self.model = load_model("toy-gpt2")

    def ask(self) -> None:
        def hook(activation: torch.Tensor, hook: object) -> None:
            torch.empty(2**60, dtype=torch.uint8)

        from mi_toolkit.activations.record import record

        with self.model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", hook)]):
            record(self.model, ["one two", "three"], "resid_post", batch_size=2)


def test_a_job_that_runs_out_of_memory_tells_what_it_takes_and_what_takes_less() -> None:
    with pytest.raises(OutOfMemoryError) as told:
        Fails().ask()
    assert TOLD.fullmatch(str(told.value))
    assert "record on toy-gpt2 takes" in str(told.value)
    assert "Take batch_size=1 or positions='last' or fewer or shorter texts" in str(told.value)
    assert isinstance(told.value, MemoryError)


def test_the_words_of_every_library_for_it_are_known() -> None:
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(of_torch.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(OSError(12, "Cannot allocate memory"))
    assert is_out_of_memory(RuntimeError("std::bad_alloc"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(OSError(28, "No space left on device"))


LAID_OUT = {
    "": ("0::/a/b", "memory.max", "memory.current", "inactive_file"),
    "memory": (
        "4:memory:/a/b",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
}


@pytest.mark.parametrize("version", LAID_OUT)
def test_a_control_group_bounds_what_can_be_taken(version: str, tmp_path: Path) -> None:
    line, limit, use, idle = LAID_OUT[version]
    own = tmp_path / "cgroup"
    own.write_text(f"1:cpu:/x\n{line}\n")
    assert left_of_group(tmp_path, own) is None
    inner, outer = tmp_path / version / "a" / "b", tmp_path / version / "a"
    for group, most, used in ((inner, "max" if not version else str(2**62), 10), (outer, "50", 30)):
        group.mkdir(parents=True, exist_ok=True)
        (group / limit).write_text(f"{most}\n")
        (group / use).write_text(f"{used}\n")
        (group / "memory.stat").write_text(f"anon 3\n{idle} 5\n")
    assert left_of_group(tmp_path, own) == 50 - (30 - 5)


def test_a_group_that_is_seen_in_part_bounds_nothing(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/\n0::\n")
    (tmp_path / "memory.current").write_text("30\n")  # and no memory.max
    assert left_of_group(tmp_path, own) is None


@pytest.mark.parametrize(("limit", "used"), memory.LIMITS.items())
def test_a_limit_of_the_process_bounds_what_can_be_taken(limit: str, used: str) -> None:
    code = (
        "import re, resource, torch\n"
        "from pathlib import Path\n"
        "from mi_toolkit.core.memory import available_bytes\n"
        f"own = re.search(r'{used}:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]\n"
        f"most = int(own) * 1024 + 2**26, resource.RLIM_INFINITY\n"
        f"resource.setrlimit(resource.{limit}, most)\n"
        "print(available_bytes())"
    )
    if memory.resource is None or not Path("/proc/self/status").exists():
        pytest.skip("there is no such limit here")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) <= 2**26 < available_bytes()
