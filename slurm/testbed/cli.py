"""`python -m slurm.testbed`: a real Slurm on this machine, to try things and to test with."""

import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from results_db import console
from slurm.testbed import packages
from slurm.testbed.errors import TestbedError
from slurm.testbed.settings import Settings, default_folder
from slurm.testbed.testbed import Testbed

F = TypeVar("F", bound=Callable[..., Any])


@click.group(name="slurm.testbed", no_args_is_help=True)
def cli() -> None:
    """A real Slurm on this machine: nodes n1, n2, ... with fake GPUs, partitions `normal` and `urgent`, sacct.

    Everything lies in one folder and listens on loopback; no root, no systemd. Jobs of `urgent` preempt those of
    `normal`, which are requeued.

    \b
        python -m slurm.testbed up
        eval "$(python -m slurm.testbed env)"
        sbatch --gpus-per-node=1 --wrap hostname
        python -m slurm.testbed wipe
    """


def _testbed(command: F) -> F:
    """Adds `--folder` and the argument `folder: Path`."""
    option = click.option(
        "--folder",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="SLURM_TESTBED",
        default=default_folder,
        show_default=str(default_folder()),
        show_envvar=True,
        help="The testbed's private folder.",
    )
    return option(command)


_noticed = click.option(
    "--noticed", is_flag=True, help="Tell Slurm that the node is down; else it finds out after about 20 s."
)


def _settings(command: F) -> F:
    """Adds an option for each of the settings."""
    for field in reversed(dataclasses.fields(Settings)):
        name = field.name.replace("_", "-")
        flag = isinstance(field.default, bool)
        command = click.option(
            f"--{name}/--no-{name}" if flag else f"--{name}",
            type=bool if flag else click.IntRange(field.metadata["low"], field.metadata["high"]),
            default=field.default,
            show_default=True,
            help=field.metadata["about"],
        )(command)
    return command


@cli.command()
def install() -> None:
    """Install the Debian packages (with apt-get; needs root, or sudo without a password)."""
    click.echo("installed" if packages.install() else "all is here already")


@cli.command()
@_testbed
@_settings
def up(folder: Path, **options: Any) -> None:
    """Start what does not run yet, and wait until all nodes take jobs."""
    testbed = Testbed(folder)
    started = testbed.up(Settings(**options))
    click.echo(f"{'up' if started else 'already up'}; point your shell at it with: {_eval_line(testbed)}")


@cli.command()
@_testbed
def env(folder: Path) -> None:
    """Print what points Slurm's commands at the testbed, for `eval`; its GPUs are no devices to train on."""
    testbed = Testbed(folder)
    testbed.record  # noqa: B018  a folder without a testbed is an error
    click.echo(f"export SLURM_CONF={shlex.quote(str(testbed.place.conf))} IMAGINE_DEVICE=cpu")


@cli.command()
@_testbed
def status(folder: Path) -> int:
    """Show nodes and processes; exit code 1 if slurmctld or a node is not up."""
    testbed = Testbed(folder)
    nodes = testbed.record.nodes
    members = testbed.members()
    if not any(member.kind == "slurmctld" for member in members):
        click.echo("slurmctld is down; start it with: python -m slurm.testbed up")
        return 1
    for node, state in testbed.node_states().items():
        click.echo(f"{node:<6} {state}")
    for member in members:
        click.echo(f"{member.process.pid:<8} {member.kind:<12} {member.node or ''}".rstrip())
    return 0 if {member.node for member in members if member.kind == "slurmd"} == set(nodes) else 1


@cli.command("node-kill")
@click.argument("node")
@_testbed
@_noticed
def node_kill(node: str, folder: Path, noticed: bool) -> None:
    """Let NODE lose its power: slurmd, steps and tasks die at once."""
    Testbed(folder).kill_node(node, noticed=noticed)


@cli.command("node-cut")
@click.argument("node")
@_testbed
@_noticed
def node_cut(node: str, folder: Path, noticed: bool) -> None:
    """Let NODE lose its network: slurmd dies, tasks live on."""
    Testbed(folder).cut_node(node, noticed=noticed)


@cli.command("node-up")
@click.argument("node")
@_testbed
def node_up(node: str, folder: Path) -> None:
    """Bring NODE back and wait until it takes jobs."""
    Testbed(folder).start_node(node)


@cli.command("ctld-kill")
@_testbed
def ctld_kill(folder: Path) -> None:
    """Kill slurmctld; running jobs go on."""
    Testbed(folder).kill_controller()


@cli.command("ctld-up")
@_testbed
def ctld_up(folder: Path) -> None:
    """Start slurmctld again."""
    Testbed(folder).start_controller()


@cli.command()
@_testbed
def down(folder: Path) -> None:
    """Cancel all jobs and stop every process; `up` goes on with what is on disk."""
    Testbed(folder).down()


@cli.command()
@_testbed
def wipe(folder: Path) -> None:
    """Kill every process at once and delete the folder."""
    Testbed(folder).wipe()


def _eval_line(testbed: Testbed) -> str:
    return f'eval "$(python -m slurm.testbed env --folder {shlex.quote(str(testbed.place.folder))})"'


def main() -> None:
    """The entry point of `python -m slurm.testbed`."""
    console.run(cli, errors=(TestbedError,))
