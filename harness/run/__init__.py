"""One run of the suites: workers, attempts, evidence."""
