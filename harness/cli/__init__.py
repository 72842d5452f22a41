"""The `nsvm` command: what a person types. Each subcommand is a module with `add(subparsers)` and `run(args) ->
int`.
"""

from __future__ import annotations

from harness.cli.command import main

__all__ = ["main"]
