"""Launchers: built in or in a user's file, with every key of hydra-submitit-launcher, and the jobs' resources."""

import os
from dataclasses import fields
from pathlib import Path

import pytest
import submitit
from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf, SlurmQueueConf
from submitit.slurm.slurm import SlurmExecutor
from sweep_helpers import answer, write_spec

from imagination.schema import ConfigError
from slurm.client.client import sbatch_environment, srun_environment
from slurm.submit.launchers import LAUNCHER_KEYS, Launcher, Resources, check_setting, choose, folder, names


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for launcher files."""
    monkeypatch.setenv("IMAGINE_LAUNCHERS", str(tmp_path / "launchers"))
    (tmp_path / "launchers").mkdir()
    return tmp_path / "launchers"


def resources(**settings: object) -> Resources:
    return Resources.of(Launcher("slurm", "slurm", settings))


def test_keys_are_those_of_the_plugin() -> None:
    known = {field.name for conf in (LocalQueueConf, SlurmQueueConf) for field in fields(conf)}
    assert set(LAUNCHER_KEYS) == known - {"_target_"}


def test_where_launcher_files_lie(monkeypatch: pytest.MonkeyPatch, own: Path) -> None:
    assert folder() == own
    monkeypatch.delenv("IMAGINE_LAUNCHERS")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/c")
    assert folder() == Path("/c/imagine-sweep/launchers")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", "/h")
    assert folder() == Path("/h/.config/imagine-sweep/launchers")


def test_a_launcher_file_and_the_settings_that_override_it(own: Path) -> None:
    (own / "mine.yaml").write_text("partition: gpu\ntimeout_min: 240\nsetup: [module load cuda]\n")
    (own / "laptop.yaml").write_text("name: local\ncpus_per_task: 3\n")
    (own / "empty.yaml").write_text("")
    assert names() == ("local", "slurm", "empty", "laptop", "mine")
    chosen = choose({"name": "mine", "timeout_min": 5})
    assert chosen == Launcher(
        "mine", "slurm", {"partition": "gpu", "timeout_min": 5, "setup": ["module load cuda"]}
    )
    assert choose({"name": "laptop"}) == Launcher("laptop", "local", {"cpus_per_task": 3})
    assert choose({"name": "empty"}) == Launcher("empty", "slurm", {})
    assert choose({"partition": "a"}) == Launcher("local", "local", {"partition": "a"})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "partitoin: gpu",
            r"bad.yaml: unknown launcher key 'partitoin' \(did you mean 'partition'\?\); valid: ",
        ),
        ("name: pbs", "bad.yaml: name: 'pbs' is not one of local, slurm"),
        ("timeout_min: 0", "bad.yaml: launcher.timeout_min: 0 is not a whole number from 1"),
        ("nodes: 2", "bad.yaml: launcher.nodes: 2 is not 1; a pack is one process"),
        ("- a", "bad.yaml: not a mapping; write one key per line"),
        ("a: [", "bad.yaml: cannot be read: "),
        ("qos: a\nqos: b", "bad.yaml: cannot be read: .*duplicate key"),
    ],
)
def test_a_wrong_launcher_file_is_one_line(own: Path, text: str, problem: str) -> None:
    (own / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=problem) as raised:
        choose({"name": "bad"})
    assert "\n" not in str(raised.value)


def test_an_unknown_launcher_says_where_files_go(own: Path) -> None:
    with pytest.raises(ConfigError, match=f"'pbs' is not one of local, slurm; .* the file {own}/NAME.yaml"):
        check_setting("name", "pbs")


def test_the_other_keys_have_the_plugins_defaults(own: Path) -> None:
    made, plugin = resources(partition="gpu", mem_gb=4), SlurmQueueConf()
    assert made.values["partition"] == "gpu"
    assert made.values["mem_gb"] == 4
    for key in set(made.values) - {"partition", "mem_gb"}:
        assert made.values[key] == getattr(plugin, key), key
    # Two of the plugin's defaults do not apply here.
    assert (made.submitit_folder, made.max_num_timeout) == (None, None)
    given = resources(submitit_folder="/x/%j", max_num_timeout=0)
    assert (given.submitit_folder, given.max_num_timeout) == ("/x/%j", 0)


def test_every_key_reaches_sbatch(tmp_path: Path) -> None:
    # A value of the plugin's type, and the option that sbatch should read.
    said = {
        "timeout_min": (7, "--time=7"),
        "cpus_per_task": (3, "--cpus-per-task=3"),
        "gpus_per_node": (1, "--gpus-per-node=1"),
        "tasks_per_node": (1, "--ntasks-per-node=1"),
        "mem_gb": (5, "--mem=5GB"),
        "nodes": (1, "--nodes=1"),
        "stderr_to_stdout": (True, None),
        "partition": ("p", "--partition=p"),
        "qos": ("q", "--qos=q"),
        "comment": ("c", "--comment=c"),
        "constraint": ("k", "--constraint=k"),
        "exclude": ("n9", "--exclude=n9"),
        "gres": ("gpu:1", "--gres=gpu:1"),
        "cpus_per_gpu": (2, "--cpus-per-gpu=2"),
        "gpus_per_task": (1, "--gpus-per-task=1"),
        "mem_per_gpu": ("1G", "--mem-per-gpu=1G"),
        "mem_per_cpu": ("2G", "--mem-per-cpu=2G"),
        "account": ("a", "--account=a"),
        "signal_delay_s": (33, "--signal=USR2@33"),
        "additional_parameters": ({"mail-user": "me"}, "--mail-user=me"),
        "array_parallelism": (9, None),  # only of arrays; see test_deal
        "setup": (["module load x"], None),
    }
    elsewhere = {"name", "submitit_folder", "max_num_timeout"}
    assert said.keys() | elsewhere == set(LAUNCHER_KEYS)
    made = resources(**{key: value for key, (value, _) in said.items()})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SlurmExecutor, "affinity", classmethod(lambda cls: 2))  # so that it needs no srun
        executor = submitit.AutoExecutor(folder=tmp_path, cluster="slurm")
        executor.update_parameters(**made.submitit())
    script = executor._executor._make_submission_file_text("run", "uid").splitlines()
    for key, (_, line) in said.items():
        assert line is None or f"#SBATCH {line}" in script, key
    assert "module load x" in script
    assert not any(line.startswith("#SBATCH --error") for line in script)  # stderr_to_stdout


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"timeout_min": "soon"}, "launcher.timeout_min: 'soon': Value 'soon' of type 'str' could not be"),
        ({"setup": 3}, "launcher.setup: 3: "),
        ({"additional_parameters": [1]}, "launcher.additional_parameters: "),
        ({"submitit_folder": "${hydra.sweep.dir}/x"}, r"contains Hydra's \$\{...\}, which has no value here"),
        ({"timeout_min": 2, "signal_delay_s": 120}, "signal_delay_s: 120 is not below the time limit, 120 s"),
        ({"additional_parameters": {"nodes": 2}}, "nodes cannot be given here; a pack is one process"),
        ({"additional_parameters": {"job-name": "x"}}, "job-name cannot be given here; a unique name"),
    ],
)
def test_a_wrong_value_is_one_line(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as raised:
        resources(**settings)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("count", [-1, 1.5, True, "often"])
def test_a_count_of_time_outs_is_a_whole_number(count: object) -> None:
    with pytest.raises(ConfigError, match=r"launcher\.max_num_timeout: .* is not a whole number from 0"):
        check_setting("max_num_timeout", count)
    assert check_setting("max_num_timeout", 0) == 0


@pytest.mark.parametrize("inside", [False, True])
def test_a_users_variables_for_sbatch_do_not_override_the_spec(
    monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    for name in [name for name in os.environ if name.startswith(("SLURM", "SBATCH"))]:
        monkeypatch.delenv(name)
    said = {
        "SBATCH_JOB_NAME": "mine",
        "SBATCH_TIMELIMIT": "3",
        "SBATCH_ACCOUNT": "of-the-site",
        "SBATCH_PARTITION": "of-the-site",
        "SLURM_CONF": "/c",
        **({"SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "7", "SLURM_MEM_PER_NODE": "9"} if inside else {}),
    }
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    asked = resources(partition="p").asked
    left = {name: value for name, value in sbatch_environment(asked).items() if name in said}
    assert left == {"SBATCH_ACCOUNT": "of-the-site", "SLURM_CONF": "/c"}
    found = srun_environment(asked)
    assert found["SLURM_ACCOUNT"] == "of-the-site"
    assert "SLURM_PARTITION" not in found
    assert "SLURM_JOB_ID" not in found
    assert found["PATH"] == os.environ["PATH"]


# A third of the limit, and at most the plugin's two minutes: 60 s / 3, 300 s / 3, 600 s / 3 = 200 > 120.
@pytest.mark.parametrize(("timeout_min", "delay_s"), [(1, 20), (5, 100), (10, 120), (60, 120)])
def test_a_short_limit_leaves_time_before_the_signal(timeout_min: int, delay_s: int) -> None:
    assert resources(timeout_min=timeout_min).values["signal_delay_s"] == delay_s


@pytest.mark.parametrize(
    ("settings", "gpus"),
    [
        ({}, 0),
        ({"gpus_per_node": 2}, 2),
        ({"gpus_per_task": 1}, 1),
        ({"gres": "gpu"}, 1),
        ({"gres": "gpu:h100:4,craynetwork:1"}, 4),
        ({"gres": "craynetwork:3"}, 0),
        ({"additional_parameters": {"gpus": "a100:2"}}, 2),
        ({"additional_parameters": {"gres": "gpu:3"}}, 3),
        ({"additional_parameters": {"gpus-per-node": "h100"}}, 1),
    ],
)
def test_the_gpus_that_a_job_asks_for(settings: dict[str, object], gpus: int) -> None:
    assert resources(**settings).gpus == gpus


@pytest.mark.slow
def test_a_launcher_file_chooses_where_a_spec_runs(tmp_path: Path, own: Path) -> None:
    """The command line names it; because of `name: local` it trains here."""
    (own / "laptop.yaml").write_text("name: local\ncpus_per_task: 1\n")
    write_spec(tmp_path, runs=1)
    said = answer(
        "launch", "s.yaml", "launcher=laptop", "--db", "a.db", "--json", "--workers", "1", folder=tmp_path
    )
    assert said.code == 0
    assert said.json["stored"] == 1


def test_without_slurm_the_local_launcher_is_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_spec(tmp_path)
    monkeypatch.setenv("PATH", "/nothing")
    before = {path.name for path in tmp_path.iterdir()}
    said = answer("launch", "s.yaml", "launcher=slurm", "--db", "a.db", folder=tmp_path)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "no sbatch on PATH" in said.err
    assert "launcher=local" in said.err
    assert {path.name for path in tmp_path.iterdir()} == before
