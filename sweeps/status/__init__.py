"""The status of a sweep's cells."""
