"""The local workers' resources: cores, a container's share of them, and GPUs."""

import os

import pytest

from jobs import gpus
from jobs.gpus import visible_gpus
from jobs.provenance import cpu_name
from slurm import local


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Pretends a number of cores, and the text of the container's limit file."""

    def pretend(cores, limit):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
        (tmp_path / "cpu.max").write_text(limit)
        monkeypatch.setattr(local, "_CPU_MAX", tmp_path / "cpu.max")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return pretend


@pytest.mark.parametrize(
    ("cores", "limit", "usable"),
    [
        (8, "max 100000\n", 8),  # no limit
        (64, "200000 100000\n", 2),  # 200 ms of every 100 ms: two cores
        (64, "150000 100000\n", 2),  # one and a half, rounded up
        (2, "400000 100000\n", 2),  # a limit above the number of cores
        (4, "50000 100000\n", 1),
    ],
)
def test_usable_cores(machine, cores, limit, usable) -> None:
    machine(cores, limit)
    assert local.usable_cores() == usable


def test_a_worker_per_core_or_per_several_cores(machine) -> None:
    machine(8, "max 100000")
    assert local.resources() == local.Resources(workers=8, threads=1)
    assert local.resources(cpus_per_task=3) == local.Resources(workers=2, threads=3)
    assert local.resources(cpus_per_task=16) == local.Resources(workers=1, threads=8)
    assert local.resources(workers=3) == local.Resources(workers=3, threads=1)


@pytest.mark.parametrize(
    ("named", "found"), [("0,2", ["0", "2"]), ("", []), ("-1", []), ("GPU-1a", ["GPU-1a"])]
)
def test_gpus_that_the_environment_names(monkeypatch, named, found) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == found


def test_a_worker_per_gpu_with_its_share_of_the_cores(machine, monkeypatch) -> None:
    machine(8, "max 100000")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert local.resources() == local.Resources(workers=2, threads=4, gpus=("4", "7"))
    assert local.resources(workers=3) == local.Resources(workers=3, threads=2, gpus=("4", "7", "4"))


@pytest.mark.parametrize(
    ("listed", "name"),
    [
        (
            "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d2f)\nGPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-77aa)\n",
            "NVIDIA A100-SXM4-40GB",
        ),
        ("GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d2f)\nGPU 1: Tesla T4 (UUID: GPU-77aa)\n", None),
    ],
)
def test_the_device_of_workers_is_named_as_attempts_record_it(monkeypatch, tmp_path, listed, name) -> None:
    """As torch names a GPU. Of different GPUs a worker may get any."""
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\ncat <<END\n{listed}END\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1"]
    assert local.device_name(["0", "1"]) == name
    assert local.device_name([]) == cpu_name()
    monkeypatch.setenv("IMAGINE_DEVICE", "cpu")
    assert local.device_name(["0", "1"]) == cpu_name()


@pytest.mark.parametrize("fault", ["exec sleep 60", None], ids=["it hangs", "it cannot be run"])
def test_without_an_answer_of_nvidia_smi_there_is_no_gpu(monkeypatch, tmp_path, fault) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{fault}\n" if fault else "#!/no/such/shell\n")
    command.chmod(0o755)
    monkeypatch.setattr(gpus, "ANSWERS_WITHIN_S", 0.2)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == []
