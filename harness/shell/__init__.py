"""A live L1 at a prompt: set fields, run, see what changed."""
