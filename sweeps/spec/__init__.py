"""From a YAML file to cells and runs."""
