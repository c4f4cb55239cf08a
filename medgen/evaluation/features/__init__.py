"""Feature extractors: one network or method a file, all called alike (see ``extractor.Extractor``)."""
