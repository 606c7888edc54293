"""What a person sees: tables, one run, figures."""
