"""Augment segmentation datasets with synthetic anatomy and lesions, and write them for segmentation networks."""
