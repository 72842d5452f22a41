"""The line to the executor: frames, lanes, the session that boots and asks it."""
