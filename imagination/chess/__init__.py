"""Chess: networks trained on Stockfish's moves, and what their layers know of moves to come (paper section 3.3)."""
