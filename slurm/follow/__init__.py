"""After the submission: reconcile, hold, cancel and logs."""
