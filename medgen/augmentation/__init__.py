"""Synthetic training data: anatomy, lesions, and the data sets they are written as."""
