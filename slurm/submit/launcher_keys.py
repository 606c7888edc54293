"""The keys that a `launcher:` section may hold, as a frozen list: importing the plugin takes too long here.

A test compares it with the dataclasses of hydra-submitit-launcher.
"""

LAUNCHER_KEYS = (
    "name",
    "timeout_min",
    "cpus_per_task",
    "gpus_per_node",
    "tasks_per_node",
    "mem_gb",
    "nodes",
    "stderr_to_stdout",
    "submitit_folder",
    "partition",
    "qos",
    "comment",
    "constraint",
    "exclude",
    "gres",
    "cpus_per_gpu",
    "gpus_per_task",
    "mem_per_gpu",
    "mem_per_cpu",
    "account",
    "signal_delay_s",
    "max_num_timeout",
    "additional_parameters",
    "array_parallelism",
    "setup",
)

COUNTS = ("timeout_min", "cpus_per_task", "mem_gb", "array_parallelism")
"""Keys that hold a whole number from 1, or nothing."""

ONE_PROCESS = ("nodes", "tasks_per_node")
"""Keys that stay 1: a pack is one process."""
