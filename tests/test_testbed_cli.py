"""The testbed's configuration files, command line and errors. Starts no Slurm."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from slurm_fixtures import slurm_on

from slurm.testbed import packages, ports
from slurm.testbed.cli import cli
from slurm.testbed.render import write_configuration
from slurm.testbed.settings import Place, Record, Settings, TestbedError
from slurm.testbed.testbed import Testbed

ROOT = Path(__file__).parents[1]


def configuration(folder: Path, **options) -> dict[str, str]:
    """slurm.conf as key to value; the lines of partitions and nodes are whole."""
    write_configuration(Place(folder), Record(Settings(**options), 21_056))
    kept = [
        line for line in (folder / "etc" / "slurm.conf").read_text().splitlines() if line and line[0] != "#"
    ]
    return dict(line.split("=", 1) for line in kept)


@pytest.fixture
def short_path(tmp_path_factory) -> Path:
    """A folder with a short path, because pytest's own are too long for sockets."""
    folder = Path(f"/tmp/slurm-conf-{os.getpid()}")
    folder.mkdir()
    yield folder
    subprocess.run(["rm", "-r", str(folder)], check=True)


def test_ports_and_names_follow_from_the_settings(short_path) -> None:
    conf = configuration(short_path, nodes=3, gpus=2, cpus=4, memory_mb=2048, max_array=77, requeue_wait_s=9)
    # slurmctld has the first port, slurmdbd the second, and then each node one.
    assert (conf["SlurmctldPort"], conf["AccountingStoragePort"]) == ("21056", "21057")
    assert conf["NodeName"].startswith(
        "n[1-3] NodeHostname=localhost NodeAddr=127.0.0.1 Port=21058-21060 CPUs=4 "
    )
    assert " Gres=gpu:2 " in conf["NodeName"]
    assert conf["DefMemPerCPU"] == "512"  # 2048 MB for 4 CPUs
    assert conf["MaxArraySize"] == "77"
    # A requeued job waits until credentials have expired, and one second more.
    assert conf["AuthInfo"].endswith(",cred_expire=8")
    gres = (short_path / "etc" / "gres.conf").read_text()
    assert gres == f"NodeName=n[1-3] Name=gpu File={short_path}/dev/nvidia[0-1]\n"
    assert [str(path.readlink()) for path in sorted((short_path / "dev").iterdir())] == ["/dev/null"] * 2
    assert (short_path / "etc" / "slurmdbd.conf").stat().st_mode & 0o777 == 0o600


def test_one_node_one_gpu_is_written_without_brackets(short_path) -> None:
    conf = configuration(short_path, nodes=1, gpus=1)
    assert conf["NodeName"].startswith("n1 ")
    assert " Port=21058 " in conf["NodeName"]
    assert (short_path / "etc" / "gres.conf").read_text().endswith("/dev/nvidia0\n")


def test_a_configuration_without_options(short_path) -> None:
    configuration(short_path)
    conf = configuration(short_path, gpus=0, accounting=False, preempt_signal=False, kill_over_memory=False)
    assert not {"AccountingStorageType", "SlurmctldParameters", "JobAcctGatherParams"} & set(conf)
    assert "Gres" not in conf["NodeName"]
    assert not (short_path / "etc" / "gres.conf").exists()


def test_the_record_gives_back_what_was_written(short_path) -> None:
    record = Record(Settings(nodes=2, accounting=False), 25_000)
    record.write(Place(short_path))
    assert Record.read(Place(short_path)) == record
    assert record.nodes == {"n1": 25_002, "n2": 25_003}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["up", "--nodes", "0"], "0 is not in the range 1<=x<=60"),
        (["up", "--requeue-wait-s", "5"], "5 is not in the range x>=6"),
        (["up", "--folder", "/tmp/" + "x" * 80], "has 85 characters, and a socket's path allows 70"),
        (["up", "--folder", "/tmp/a b"], "has characters other than letters"),
        (["node-kill", "n1", "--folder", "/tmp/no-testbed"], "no testbed in /tmp/no-testbed; start one with"),
        (["env", "--folder", "/tmp/no-testbed"], "no testbed in /tmp/no-testbed; start one with"),
        (["wipe", "--folder", "/usr"], "/usr is not empty and not a testbed's"),
        (["up", "--folder", "/usr"], "/usr is not empty and not a testbed's"),
    ],
)
def test_one_line_and_exit_code_2(arguments, said) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "slurm.testbed", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert not Path("/tmp/no-testbed").exists()


def test_without_packages_the_line_says_how_to_install(monkeypatch, short_path) -> None:
    monkeypatch.setattr(packages, "search_path", lambda: str(short_path))
    assert packages.missing(accounting=False) == ["slurmctld", "slurmd", "sbatch", "munged", "setsid"]
    with pytest.raises(TestbedError, match=r"slurmdbd.*missing.*python -m slurm.testbed install"):
        Testbed(short_path).up()
    assert list(short_path.iterdir()) == []


def test_the_fixture_skips_with_one_line_and_fails_where_slurm_is_required(monkeypatch) -> None:
    monkeypatch.setattr(packages, "missing", lambda *, accounting: ["sbatch"])
    monkeypatch.delenv("REQUIRE_SLURM", raising=False)
    line = r"^Slurm is not installed completely \(sbatch missing\); install it with: python -m [^\n]*$"
    with pytest.raises(pytest.skip.Exception, match=line), slurm_on(Settings()):
        pass
    monkeypatch.setenv("REQUIRE_SLURM", "1")
    with pytest.raises(pytest.fail.Exception, match=line), slurm_on(Settings()):
        pass


def test_help_shows_the_commands_of_a_first_session_on_lines_of_their_own() -> None:
    assert "\n      python -m slurm.testbed up\n" in CliRunner().invoke(cli, ["--help"]).output


def test_every_setting_is_an_option_that_help_explains() -> None:
    text = " ".join(CliRunner().invoke(cli, ["up", "--help"], terminal_width=200).output.split())
    for name, field in Settings.__dataclass_fields__.items():
        assert f"--{name.replace('_', '-')}" in text
        assert field.metadata["about"] in text


def test_the_docs_name_every_command() -> None:
    text = (ROOT / "docs" / "slurm.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    assert set(re.findall(r"python -m slurm\.testbed ([a-z-]+)", text)) == set(cli.commands)


def test_a_block_with_one_port_taken_is_taken() -> None:
    with ports.held():
        first = ports.free_block()
        with socket.socket() as other:
            other.bind(("127.0.0.1", first + ports.BLOCK - 1))
            assert not ports._is_free(first)
        assert ports._is_free(first)


def test_only_tests_import_the_testbed() -> None:
    for package in ("imagination", "results_db", "jobs", "slurm", "sweeps"):
        for path in (ROOT / package).rglob("*.py"):
            if "testbed" not in path.parts:
                assert not re.search(r"^ *(from|import) slurm\.testbed", path.read_text(), re.MULTILINE), path
