"""Commands with many options, one per module; ``medgen.cli`` registers them."""
