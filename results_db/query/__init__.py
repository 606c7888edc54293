"""Filters, the gate and aggregation over stored runs."""
