"""A test as a reproducer: a kernel that does the test's steps, compares what comes, and needs no Python."""
