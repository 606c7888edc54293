"""From packs to jobs in the queue, and recovery from a crash in between."""
