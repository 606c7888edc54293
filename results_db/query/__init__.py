"""Filters, the accuracy gate and aggregation over stored runs."""
