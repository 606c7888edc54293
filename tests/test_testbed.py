"""The testbed: a real Slurm comes up, does what the tests of dispatch need it to do, breaks on demand, and goes."""

import ast
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from slurm_fixtures import slurm_on, wipe_orphans

from slurm.testbed import packages, ports
from slurm.testbed.cli import cli
from slurm.testbed.errors import TestbedError
from slurm.testbed.processes import TASK, is_alive, wait_for
from slurm.testbed.render import write_configuration
from slurm.testbed.settings import Place, Record, Settings
from slurm.testbed.testbed import Testbed

ROOT = Path(__file__).parents[1]
SLOW = pytest.mark.slow
WITHIN_S = 90  # what takes 20 s on an idle machine


def submit(slurm: Testbed, script: str, *options: str) -> str:
    """The id of a job that runs this shell script."""
    return slurm.run("sbatch", "--parsable", "--chdir=/tmp", "--output=/dev/null", *options, "--wrap", script)


def state(slurm: Testbed, job: str) -> str:
    return slurm.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T")


def wait_until_running(slurm: Testbed, *jobs: str) -> None:
    wait_for("jobs to run", lambda: all(state(slurm, job) == "RUNNING" for job in jobs), within_s=WITHIN_S)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def wait_for_lines(path: Path, count: int) -> list[str]:
    wait_for(f"{count} lines", lambda: len(lines(path)) >= count, within_s=WITHIN_S)
    return lines(path)


def alive(pid: str) -> bool:
    return psutil.pid_exists(int(pid)) and is_alive(psutil.Process(int(pid)))


# Configuration


def configuration(folder: Path, **options) -> dict[str, str]:
    """slurm.conf as key to value, the partitions' and the nodes' lines whole."""
    write_configuration(Place(folder), Record(Settings(**options), 21_056))
    kept = [
        line for line in (folder / "etc" / "slurm.conf").read_text().splitlines() if line and line[0] != "#"
    ]
    return dict(line.split("=", 1) for line in kept)


@pytest.fixture
def short_path(tmp_path_factory) -> Path:
    """Pytest's own folders are too deep for sockets in them."""
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
    assert conf["NodeName"].startswith("n1 ") and " Port=21058 " in conf["NodeName"]
    assert (short_path / "etc" / "gres.conf").read_text().endswith("/dev/nvidia0\n")


def test_what_is_switched_off_is_not_there(short_path) -> None:
    configuration(short_path)
    conf = configuration(short_path, gpus=0, accounting=False, preempt_signal=False, kill_over_memory=False)
    assert not {"AccountingStorageType", "SlurmctldParameters", "JobAcctGatherParams"} & set(conf)
    assert "Gres" not in conf["NodeName"] and not (short_path / "etc" / "gres.conf").exists()


def test_the_record_gives_back_what_was_written(short_path) -> None:
    record = Record(Settings(nodes=2, accounting=False), 25_000)
    record.write(Place(short_path))
    assert Record.read(Place(short_path)) == record
    assert record.nodes == {"n1": 25_002, "n2": 25_003}


# What a person gets wrong: one line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["up", "--nodes", "0"], "0 is not in the range 1<=x<=60"),
        (["up", "--requeue-wait-s", "5"], "5 is not in the range x>=6"),
        (["up", "--folder", "/tmp/" + "x" * 80], "has 85 characters, at most 70 fit into a socket's path"),
        (["up", "--folder", "/tmp/a b"], "has characters other than letters"),
        (
            ["node-kill", "n1", "--folder", "/tmp/no-testbed"],
            "no testbed in /tmp/no-testbed; bring one up with",
        ),
        (["env", "--folder", "/tmp/no-testbed"], "no testbed in /tmp/no-testbed; bring one up with"),
        (["wipe", "--folder", "/usr"], "/usr holds something that is no testbed"),
        (["up", "--folder", "/usr"], "/usr holds something that is no testbed"),
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
    assert said in done.stderr and len(done.stderr.splitlines()) == 1 and done.stdout == ""
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
    line = (
        r"^Slurm is not all here \(sbatch missing\); install it with: python -m slurm.testbed install [^\n]*$"
    )
    with pytest.raises(pytest.skip.Exception, match=line), slurm_on(Settings()):
        pass
    monkeypatch.setenv("REQUIRE_SLURM", "1")
    with pytest.raises(pytest.fail.Exception, match=line), slurm_on(Settings()):
        pass


def test_every_setting_is_an_option_that_help_explains() -> None:
    text = " ".join(CliRunner().invoke(cli, ["up", "--help"], terminal_width=200).output.split())
    for name, field in Settings.__dataclass_fields__.items():
        assert f"--{name.replace('_', '-')}" in text and field.metadata["about"] in text


def test_the_docs_name_commands_and_options_that_exist() -> None:
    text = (ROOT / "docs" / "slurm.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    said = re.findall(r"python -m slurm\.testbed ([a-z-]+)((?: --[a-z-]+)*)", text)
    assert {command for command, _ in said} == set(cli.commands)
    for command, options in said:
        known = {
            name for option in cli.commands[command].params for name in (*option.opts, *option.secondary_opts)
        }
        assert set(options.split()) <= known, command


def test_a_block_with_one_port_taken_is_taken() -> None:
    with ports.held():
        first = ports.free_block()
        with socket.socket() as other:
            other.bind(("127.0.0.1", first + ports.BLOCK - 1))
            assert not ports._is_free(first)
        assert ports._is_free(first)


def test_production_code_does_not_know_the_testbed_and_it_needs_no_torch() -> None:
    for package in ("imagination", "results_db", "jobs", "slurm", "sweeps"):
        for path in (ROOT / package).rglob("*.py"):
            if "testbed" not in path.parts:
                named = [
                    node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
                ]
                assert not [node for node in named if (node.module or "").startswith("slurm.testbed")], path
    script = "import sys, slurm.testbed.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# On the real thing


@SLOW
def test_up_down_up_wipe(slurm_with) -> None:
    testbed = slurm_with(nodes=2)
    assert testbed.up() is False  # all of it runs already
    job = submit(testbed, "sleep 300")
    wait_until_running(testbed, job)
    with pytest.raises(TestbedError, match="up with other settings; take it down first"):
        testbed.up(Settings(nodes=3))
    for left in (testbed.place.folder / "run").glob("*.pid"):
        left.unlink()  # processes are found without them
    testbed.down()
    assert testbed.members() == []
    testbed.down()
    assert testbed.up() is True
    # Its database and the controller's state were kept.
    assert testbed.run("sacct", "-X", "-n", "-P", "-j", job, "-o", "State").startswith("CANCELLED")
    assert int(submit(testbed, "true")) == int(job) + 1
    testbed.wipe()
    assert testbed.members() == [] and not testbed.place.folder.exists()


@SLOW
def test_the_testbed_of_a_caller_that_was_killed_is_found_and_wiped(slurm) -> None:
    script = (
        "import os, sys; from slurm.testbed.settings import Settings; from slurm.testbed.testbed import Testbed; "
        "from pathlib import Path; testbed = Testbed(Path(f'{sys.argv[1]}/slurm-test-{os.getpid()}-0')); "
        "testbed.up(Settings(nodes=1, accounting=False)); "
        "testbed.run('sbatch', '-o', '/dev/null', '--wrap', 'sleep 300'); "
        "print(testbed.place.folder, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tempfile.gettempdir()], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = Testbed(Path(done.stdout.strip()))
    try:
        assert {"munged", "slurmctld", "slurmd"} <= {member.kind for member in left.members()}
        wipe_orphans()
        assert left.members() == [] and not left.place.folder.exists()
        assert slurm.node_states()["n1"] == "idle"  # ours, whose caller lives, is still there
    finally:
        left.wipe()


@SLOW
def test_an_array_completes_in_sacct(slurm) -> None:
    job = submit(slurm, "exit $((SLURM_ARRAY_TASK_ID == 3))", "--array=0-5")
    read = ("sacct", "-X", "-n", "-P", "-j", job, "-o", "JobID,State,ExitCode")
    wait_for(
        "sacct", lambda: len([x for x in slurm.run(*read).splitlines() if "ED|" in x]) == 6, within_s=WITHIN_S
    )
    expected = {f"{job}_{task}|{'FAILED|1:0' if task == 3 else 'COMPLETED|0:0'}" for task in range(6)}
    assert set(slurm.run(*read).splitlines()) == expected


@SLOW
def test_jobs_of_a_node_have_no_gpu_in_common(slurm, tmp_path) -> None:
    script = f"echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES >> {tmp_path}/gpus; sleep 300"
    options = ("--gpus-per-node=1", "--nodelist=n1")
    jobs = [submit(slurm, script, *options) for _ in range(3)]
    assert sorted(wait_for_lines(tmp_path / "gpus", 2)) == ["n1 0", "n1 1"]
    # The third finds no GPU, though there are CPUs enough.
    assert Counter(state(slurm, job) for job in jobs) == {"RUNNING": 2, "PENDING": 1}


@SLOW
def test_max_array_size_is_the_clusters(slurm_with) -> None:
    testbed = slurm_with(nodes=1, gpus=1, accounting=False, max_array=11)
    submit(testbed, "true", "--array=0-10")
    with pytest.raises(TestbedError, match="Invalid job array specification"):
        submit(testbed, "true", "--array=0-11")


ATTEMPT = 'echo "${SLURM_RESTART_COUNT:-0} $SLURMD_NODENAME $$" >> %s; sleep 300'


@SLOW
def test_a_killed_node_loses_its_tasks_and_slurm_requeues_the_job(slurm, tmp_path) -> None:
    job = submit(slurm, ATTEMPT % (tmp_path / "attempts"), "--requeue")
    (first,) = wait_for_lines(tmp_path / "attempts", 1)
    _, node, pid = first.split()
    slurm.kill_node(node)
    assert not alive(pid)
    assert not [member for member in slurm.members() if member.node == node]
    count, other, _ = wait_for_lines(tmp_path / "attempts", 2)[1].split()
    assert (count, other != node) == ("1", True)
    assert slurm.node_states()[node].startswith("down")
    # One job, tried twice; without -D only the latest is shown.
    wait_for("sacct", lambda: states_of(slurm, job, "-D") == ["NODE_FAIL", "RUNNING"], within_s=WITHIN_S)
    assert states_of(slurm, job) == ["RUNNING"]
    slurm.start_node(node)
    assert slurm.node_states()[node] == "idle"


def states_of(slurm: Testbed, job: str, *options: str) -> list[str]:
    return slurm.run("sacct", "-X", "-n", "-P", "-j", job, "-o", "State", *options).splitlines()


@SLOW
def test_a_cut_node_leaves_two_copies(slurm, tmp_path) -> None:
    job = submit(slurm, ATTEMPT % (tmp_path / "attempts"), "--requeue")
    (first,) = wait_for_lines(tmp_path / "attempts", 1)
    _, node, pid = first.split()
    slurm.cut_node(node)
    count, other, newer = wait_for_lines(tmp_path / "attempts", 2)[1].split()
    assert (count, other != node) == ("1", True)
    # Both are alive and take themselves for the same job.
    for copy in (pid, newer):
        assert psutil.Process(int(copy)).environ()["SLURM_JOB_ID"] == job
    # Back on the network, the node ends what no longer belongs on it.
    slurm.start_node(node)
    wait_for("the older copy's end", lambda: not alive(pid), within_s=WITHIN_S)
    assert alive(newer) and state(slurm, job) == "RUNNING"


@SLOW
def test_running_jobs_survive_the_controller(slurm, tmp_path) -> None:
    go = tmp_path / "go"
    job = submit(slurm, f"echo $$ >> {tmp_path}/pid; while [ ! -e {go} ]; do sleep 0.1; done")
    (pid,) = wait_for_lines(tmp_path / "pid", 1)
    slurm.wait_for_save()
    slurm.kill_controller()
    assert not {"slurmctld", "slurmscriptd"} & {member.kind for member in slurm.members()}
    slurm.start_controller()
    assert state(slurm, job) == "RUNNING"
    go.touch()
    wait_for("the job's end", lambda: state(slurm, job) == "COMPLETED", within_s=WITHIN_S)
    assert lines(tmp_path / "pid") == [pid]  # it ran once


PREEMPTED = """
trap 'echo USR2 >> {path}' USR2
echo start ${{SLURM_RESTART_COUNT:-0}} >> {path}
for i in $(seq 3000); do sleep 0.1; done
"""


@SLOW
def test_preemption_signals_and_requeues(slurm, tmp_path) -> None:
    path = tmp_path / "said"
    whole = ("--nodelist=n1", "--gpus-per-node=2")
    job = submit(slurm, PREEMPTED.format(path=path), "--signal=B:USR2@5", "--requeue", *whole)
    wait_for_lines(path, 1)
    submit(slurm, "sleep 1", "--partition=urgent", *whole)
    assert wait_for_lines(path, 3) == ["start 0", "USR2", "start 1"]
    assert state(slurm, job) == "RUNNING"
    wait_for("sacct", lambda: states_of(slurm, job, "-D") == ["PREEMPTED", "RUNNING"], within_s=WITHIN_S)


@SLOW
def test_a_job_over_its_memory_is_killed_and_its_log_says_so(slurm, tmp_path) -> None:
    hungry = f"{sys.executable} -c 'import time; held = bytes(400_000_000) + bytes([1]); time.sleep(300)'"
    job = submit(slurm, hungry, "--mem=100", f"--error={tmp_path}/log")
    wait_for(
        "its end", lambda: states_of(slurm, job) == ["FAILED"], within_s=WITHIN_S
    )  # Slurm 22.05's word for it
    assert "Exceeded job memory limit" in (tmp_path / "log").read_text()


@SLOW
def test_without_accounting_jobs_run_and_sacct_does_not(slurm_with, tmp_path) -> None:
    testbed = slurm_with(nodes=1, accounting=False)
    submit(testbed, f"echo done > {tmp_path}/said")
    assert wait_for_lines(tmp_path / "said", 1) == ["done"]
    with pytest.raises(TestbedError, match="accounting"):
        testbed.run("sacct")
    assert not {"mariadbd", "slurmdbd"} & {member.kind for member in testbed.members()}


@SLOW
def test_reset_mends_everything(slurm) -> None:
    submit(slurm, "setsid sleep 301 & sleep 300", "--array=0-3", "--ntasks=1")
    wait_for("tasks", lambda: len([m for m in slurm.members() if m.kind == TASK]) >= 12, within_s=WITHIN_S)
    slurm.cut_node("n1", noticed=True)
    slurm.kill_node("n2")
    slurm.kill_controller()
    # A person's shell that is pointed at the testbed is no part of it.
    with subprocess.Popen(["sleep", "300"], env=slurm.environment) as shell:
        slurm.reset()
        assert shell.poll() is None
        shell.kill()
    assert not [member for member in slurm.members() if member.kind in (TASK, "slurmstepd")]
    assert slurm.run("squeue", "-h") == ""
    assert set(slurm.node_states().values()) == {"idle"}


@SLOW
def test_two_testbeds_do_not_meet(slurm, slurm_with) -> None:
    other = slurm_with(nodes=1, accounting=False)
    assert abs(other.record.port - slurm.record.port) >= ports.BLOCK
    job = submit(slurm, "sleep 300")
    wait_until_running(slurm, job)
    assert not {member.process for member in slurm.members()} & {member.process for member in other.members()}
    other.wipe()
    assert state(slurm, job) == "RUNNING"
