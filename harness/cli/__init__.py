"""The commands that a person types after `./nsvm`: each is a module with `add(subparsers, common)` and `run(args)`."""
