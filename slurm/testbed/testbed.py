"""A real Slurm on this machine, with several nodes, fake GPUs and accounting, in one private folder.

It listens on loopback and needs no systemd, /etc, cgroups or root. Tests break it on purpose: they kill nodes, cut them
from the network and bring them back, and kill and start the controller.
"""

import shutil
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from slurm.client.client import Slurm, SlurmError
from slurm.testbed import daemons, packages, ports, processes
from slurm.testbed.processes import SLURMD, STEP, TASK, Member, wait_for
from slurm.testbed.render import write_configuration
from slurm.testbed.settings import Place, Record, Settings, TestbedError, user

_SETTLE_S = 60.0
_TAKES_JOBS = frozenset({"idle", "planned", "mixed", "allocated", "completing"})
_STARTS = {
    "munged": daemons.start_munged,
    "mariadbd": daemons.start_mariadb,
    "slurmdbd": daemons.start_slurmdbd,
    "slurmctld": daemons.start_slurmctld,
}
_WORK = frozenset({STEP, TASK})


class Testbed:
    """The testbed in a folder, up or down.

    Attributes:
        place: the folder and the names in it.
    """

    __test__ = False  # pytest would take it for a test class by its name

    def __init__(self, folder: Path) -> None:
        self.place = Place(folder.resolve())

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which Slurm's commands talk to this testbed."""
        return daemons.environment(self.place)

    @property
    def record(self) -> Record:
        """What it was last started with.

        Raises:
            TestbedError: it was never started.
        """
        return Record.read(self.place)

    def members(self) -> list[Member]:
        """Its live processes: daemons, steps and tasks."""
        return processes.members(self.place)

    def up(self, settings: Settings | None = None) -> bool:
        """Start every daemon that is not running, and wait until all nodes accept jobs.

        Args:
            settings: its settings; None means the present ones, or the defaults for a new testbed.

        Returns:
            Whether any daemon was started.

        Raises:
            TestbedError: packages are missing, the folder is not a testbed's, the testbed is up with other settings,
                or a daemon does not start.
        """
        self._check_folder()
        settings = settings or (self.record.settings if self.place.record.exists() else Settings())
        if gone := packages.missing(accounting=settings.accounting):
            raise TestbedError(
                f"Slurm is not installed completely ({', '.join(gone)} missing); {packages.HOW_TO_INSTALL}"
            )
        with ports.held():
            self._configure(settings)
            started = self._start_daemons()
            self._wait_for_nodes(self.record.nodes)
        return started

    def down(self) -> None:
        """Cancel all jobs and stop all processes; `up` continues with the files on disk."""
        if any(member.kind == "slurmctld" for member in self.members()):
            with suppress(TestbedError):  # the jobs are killed below
                self._cancel_jobs(within_s=self.record.settings.kill_wait_s + 3)
        self._stop_all(signal.SIGTERM)

    def wipe(self) -> None:
        """Kill all processes at once and delete the folder.

        Raises:
            TestbedError: the folder is not a testbed's.
        """
        self._check_folder()
        self._stop_all(signal.SIGKILL)
        if self.place.folder.exists():
            shutil.rmtree(self.place.folder)

    def kill_node(self, node: str, *, noticed: bool = False) -> None:
        """As if the machine had lost its power: slurmd, steps and tasks die without a report.

        Args:
            node: the node.
            noticed: tell Slurm that the node is down, so it requeues the node's jobs now, and not after about 20 s.
        """
        self.cut_node(node)
        self._kill(lambda member: member.node == node)
        self._tell_down(node, noticed=noticed)

    def cut_node(self, node: str, *, noticed: bool = False) -> None:
        """As if the machine had lost its network: slurmd dies, steps and tasks live on. See `kill_node`."""
        self._check_node(node)
        self._kill(lambda member: member.kind == SLURMD and member.node == node)
        self._tell_down(node, noticed=noticed)

    def start_node(self, node: str) -> None:
        """Bring a node back and wait until it accepts jobs."""
        self._check_node(node)
        if not any(member.kind == SLURMD and member.node == node for member in self.members()):
            daemons.start_slurmd(self.place, node, port=self.record.nodes[node])
        self._wait_for_nodes([node])

    def kill_controller(self) -> None:
        """Kill slurmctld; running jobs go on."""
        self._kill(lambda member: member.kind in ("slurmctld", "slurmscriptd"))

    def start_controller(self) -> None:
        """Start slurmctld if it is down; it continues with the jobs that it knew."""
        if not any(member.kind == "slurmctld" for member in self.members()):
            daemons.start_slurmctld(self.place)

    def wait_for_save(self) -> None:
        """Wait until slurmctld has written its present state to disk.

        A killed slurmctld loses what it has not written. It writes at most every 5 s, so it may forget jobs that
        sbatch submitted. It does not write when a job starts, so it may start a job a second time.
        """
        state = self.place.folder / "state"
        # A write that is under way holds an earlier state.
        wait_for("slurmctld to write", lambda: not (state / "job_state.new").exists(), within_s=_SETTLE_S)
        asked_ns = time.time_ns()
        self.run("scontrol", "reconfigure")
        written = state / "job_state"
        wait_for(
            "slurmctld to write",
            lambda: written.exists() and written.stat().st_mtime_ns > asked_ns,
            within_s=_SETTLE_S,
        )

    def reset(self) -> None:
        """Repair what a test may have left: start dead daemons, cancel jobs, kill lost copies."""
        self.up()
        self._cancel_jobs(within_s=_SETTLE_S)
        self._kill(lambda member: member.kind in _WORK)
        self._wait_for_nodes(self.record.nodes)

    def node_states(self) -> dict[str, str]:
        """Each node's state in Slurm's words; a star at the end means that the node does not answer."""
        lines = self.run("sinfo", "-h", "-N", "-p", "normal", "-o", "%N %T").splitlines()
        return dict(line.split() for line in lines)

    def run(self, *command: str) -> str:
        """The stripped output of one of Slurm's commands.

        Raises:
            TestbedError: the command fails, or does not end in time.
        """
        try:
            return Slurm(self.environment).run(*command).strip()
        except SlurmError as error:
            raise TestbedError(f"'{' '.join(command)}': {error}") from None

    def _check_folder(self) -> None:
        folder = self.place.folder
        if folder.exists() and not self.place.record.exists() and any(folder.iterdir()):
            raise TestbedError(f"{folder} is not empty and not a testbed's; choose another one with --folder")

    def _check_node(self, node: str) -> None:
        if node not in self.record.nodes:
            raise TestbedError(f"no node '{node}'; the nodes are {', '.join(self.record.nodes)}")

    def _tell_down(self, node: str, *, noticed: bool) -> None:
        if noticed:
            self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")

    def _configure(self, settings: Settings) -> None:
        """Write the configuration, with free ports, unless daemons that have read it are running."""
        if not self.members():
            self.place.folder.mkdir(parents=True, exist_ok=True)
            record = Record(settings, ports.free_block())
            record.write(self.place)
            write_configuration(self.place, record)
        elif self.record.settings != settings:
            raise TestbedError(
                f"the testbed in {self.place.folder} is up with other settings; take it down first"
            )

    def _start_daemons(self) -> bool:
        """Start the daemons that are not running. Returns whether any were down."""
        record = self.record
        running = {(member.kind, member.node) for member in self.members()}
        unwanted = () if record.settings.accounting else ("mariadbd", "slurmdbd")
        kinds = [kind for kind in _STARTS if kind not in unwanted and (kind, None) not in running]
        nodes = [node for node in record.nodes if (SLURMD, node) not in running]
        for kind in kinds:
            _STARTS[kind](self.place)
        for node in nodes:
            daemons.start_slurmd(self.place, node, port=record.nodes[node])
        return bool(kinds or nodes)

    def _wait_for_nodes(self, nodes: Iterable[str]) -> None:
        def ready() -> bool:
            states = self.node_states()
            for node in nodes:
                if states[node].startswith("drain"):  # Slurm drains a node if it could not end a job there
                    self.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
            return all(states[node].removesuffix("-") in _TAKES_JOBS for node in nodes)

        names = ", ".join(nodes)
        wait_for(f"nodes {names}", ready, within_s=_SETTLE_S, log=self.place.log("slurmctld"))

    def _cancel_jobs(self, *, within_s: float) -> None:
        """Cancel all jobs and wait for their end."""
        if self.run("squeue", "-h"):
            self.run("scancel", "--user", user())
            wait_for("the end of all jobs", lambda: not self.run("squeue", "-h"), within_s=within_s)

    def _kill(self, chosen: Callable[[Member], bool]) -> None:
        """Kill these members, and processes that they start meanwhile."""
        while found := [member.process for member in self.members() if chosen(member)]:
            processes.stop(found, signal.SIGKILL)

    def _stop_all(self, signal_number: signal.Signals) -> None:
        """Stop all daemons. Each reports to a daemon that is stopped later."""
        for kinds in ({"slurmctld", SLURMD}, {"slurmdbd"}, {"mariadbd", "munged"}):
            gone = [member.process for member in self.members() if member.kind in kinds]
            processes.stop(gone, signal_number)
            self._kill(lambda member: member.kind in _WORK)
        self._kill(lambda member: True)
