"""Trains the runs of a spec with its launcher: on this machine or on Slurm."""

from imagination.schema import ConfigError
from slurm.submit.launchers import LOCAL, choose
from sweeps.launch.options import LaunchOptions
from sweeps.launch.prepare import LaunchResult
from sweeps.spec.expand import Expansion
from sweeps.spec.model import Spec
from sweeps.status.cell import Counts


def launch(spec: Spec, expansion: Expansion, options: LaunchOptions) -> LaunchResult:
    """Trains the runs that the store lacks. An expansion without runs leaves the store untouched.

    Raises:
        ConfigError: a launcher setting is wrong; or see `launch_on_slurm`.
        StoreError: see `prepare`.
    """
    launcher = choose(spec.launcher)
    if not expansion.runs:
        return LaunchResult(name=spec.name, counts=Counts())
    if launcher.kind == LOCAL:
        if options.snapshot:
            raise ConfigError(
                "--snapshot: workers on this machine keep the code they started with; leave it out"
            )
        from sweeps.launch.local import launch_locally

        return launch_locally(spec, expansion, options, launcher=launcher)
    from sweeps.launch.slurm import launch_on_slurm

    return launch_on_slurm(spec, expansion, options, launcher=launcher)
