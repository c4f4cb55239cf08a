"""Feature extractors: one network or method per module, with a common interface (``extractor.Extractor``)."""
