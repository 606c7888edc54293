"""How the cells of a sweep stand: their runs by status, the plan, and the time left."""
