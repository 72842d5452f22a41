"""L1 and its guests as a test holds them."""
