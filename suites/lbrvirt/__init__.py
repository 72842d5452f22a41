"""Last branch records and their virtualization: bit 1, LbrVirt."""
