"""A scenario as data: steps, memory, places, assembled code."""
