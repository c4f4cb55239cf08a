"""The part of the module that needs no Slicer."""
