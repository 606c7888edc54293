"""Conway's Game of Life: the paper's experiments."""
