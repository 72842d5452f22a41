"""What a target is, and what all targets are made of: processes, consoles, work folders."""
