"""The keys of a `launcher:` section. They are listed here because importing the plugin is slow.

A test compares them with the dataclasses of hydra-submitit-launcher.
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

LEAST = {"timeout_min": 1, "cpus_per_task": 1, "mem_gb": 1, "array_parallelism": 1, "max_num_timeout": 0}
"""Keys whose value is a whole number or nothing, and the smallest number."""

ONE_PROCESS = ("nodes", "tasks_per_node")
"""Keys that stay 1, because a pack is one process."""
