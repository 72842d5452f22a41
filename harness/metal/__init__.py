"""Bare machines: their console, their power, the ways to boot the executor on them (docs/bare-metal.md)."""
