"""What suites share: guests, maps and tables that more than one test file is about."""
