"""Commands with many options, one a file; ``medgen.cli`` puts them together."""
