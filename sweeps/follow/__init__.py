"""After the launch: coverage, top-up, retry and watch."""
