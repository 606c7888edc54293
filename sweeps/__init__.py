"""What should exist: the YAML specs and the commands that launch and follow them."""
