"""The version of nsvm."""

VERSION = "0.1.0"
