"""A target's answers, kept in a file, and judged again without the target (docs/trace.md)."""
