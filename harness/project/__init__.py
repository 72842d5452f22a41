"""The project's own tests; no user of the suites needs them."""
