"""More training data from little: lesions in healthy tissue, and data sets written for segmentation networks."""
