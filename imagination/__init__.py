"""The science: environments, their networks and metrics, and the trainer."""
