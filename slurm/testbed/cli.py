"""`python -m slurm.testbed`: a real Slurm on this machine, for tests and for trying things."""

import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from slurm.testbed import packages
from slurm.testbed.settings import Settings, default_folder
from slurm.testbed.testbed import Testbed

F = TypeVar("F", bound=Callable[..., Any])

_folder = click.option(
    "--folder",
    "testbed",
    type=click.Path(path_type=Path, file_okay=False),
    callback=lambda _context, _option, folder: Testbed(folder),
    envvar="SLURM_TESTBED",
    default=default_folder,
    show_default=str(default_folder()),
    show_envvar=True,
    help="The testbed's private folder.",
)
_noticed = click.option(
    "--noticed", is_flag=True, help="Tell Slurm that the node is down; else Slurm finds out after about 20 s."
)


@click.group(name="slurm.testbed", no_args_is_help=True)
def cli() -> None:
    """A real Slurm on this machine: nodes n1, n2, ... with fake GPUs, partitions `normal` and `urgent`, and sacct.

    It lives in one folder, listens on loopback, and needs neither root nor systemd. Jobs in `urgent` preempt jobs in
    `normal`, which are requeued.

    \b
        python -m slurm.testbed up
        eval "$(python -m slurm.testbed env)"
        sbatch --gpus-per-node=1 --wrap hostname
        python -m slurm.testbed wipe
    """  # noqa: D301 - click needs the backspace itself to keep these lines apart


def _settings(command: F) -> F:
    """Add an option for each setting."""
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
    """Install the Debian packages with apt-get (needs root, or sudo without a password).

    Example: python -m slurm.testbed install
    """
    click.echo("installed" if packages.install() else "everything is already installed")


@cli.command()
@_folder
@_settings
def up(testbed: Testbed, **options: Any) -> None:
    """Start all daemons that are not running, and wait until all nodes accept jobs.

    Example: python -m slurm.testbed up --nodes 2 --gpus 4
    """
    started = testbed.up(Settings(**options))
    folder = shlex.quote(str(testbed.place.folder))
    to_use = f'eval "$(python -m slurm.testbed env --folder {folder})"'
    click.echo(f"{'up' if started else 'already up'}; to use it in this shell: {to_use}")


@cli.command()
@_folder
def env(testbed: Testbed) -> None:
    """Print variables for `eval` that point Slurm's commands at the testbed; jobs train on the CPU.

    Example: eval "$(python -m slurm.testbed env)"
    """
    testbed.record  # noqa: B018  a folder without a testbed is an error
    click.echo(f"export SLURM_CONF={shlex.quote(str(testbed.place.conf))} IMAGINE_DEVICE=cpu")


@cli.command()
@_folder
def status(testbed: Testbed) -> int:
    """Show nodes and processes; exit code 1 if slurmctld or a node is not up.

    Example: python -m slurm.testbed status
    """
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
@_folder
@_noticed
def node_kill(node: str, testbed: Testbed, noticed: bool) -> None:
    """Make NODE lose its power: slurmd, steps and tasks die at once.

    Example: python -m slurm.testbed node-kill n2 --noticed
    """
    testbed.kill_node(node, noticed=noticed)


@cli.command("node-cut")
@click.argument("node")
@_folder
@_noticed
def node_cut(node: str, testbed: Testbed, noticed: bool) -> None:
    """Make NODE lose its network: slurmd dies, tasks live on.

    Example: python -m slurm.testbed node-cut n2
    """
    testbed.cut_node(node, noticed=noticed)


@cli.command("node-up")
@click.argument("node")
@_folder
def node_up(node: str, testbed: Testbed) -> None:
    """Bring NODE back and wait until it accepts jobs.

    Example: python -m slurm.testbed node-up n2
    """
    testbed.start_node(node)


@cli.command("ctld-kill")
@_folder
def ctld_kill(testbed: Testbed) -> None:
    """Kill slurmctld; running jobs go on.

    Example: python -m slurm.testbed ctld-kill
    """
    testbed.kill_controller()


@cli.command("ctld-up")
@_folder
def ctld_up(testbed: Testbed) -> None:
    """Start slurmctld again.

    Example: python -m slurm.testbed ctld-up
    """
    testbed.start_controller()


@cli.command()
@_folder
def down(testbed: Testbed) -> None:
    """Cancel all jobs and stop all processes; `up` continues with the files on disk.

    Example: python -m slurm.testbed down
    """
    testbed.down()


@cli.command()
@_folder
def wipe(testbed: Testbed) -> None:
    """Kill all processes at once and delete the folder.

    Example: python -m slurm.testbed wipe
    """
    testbed.wipe()
