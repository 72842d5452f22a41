"""What an answer must be: expectations, universal checks, clauses, baselines, verdicts."""
