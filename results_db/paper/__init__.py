"""The paper's numbers and their comparison with stored runs."""
