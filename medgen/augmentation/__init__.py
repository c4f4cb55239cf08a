"""More training data from little: new anatomy, lesions, and data sets written for segmentation networks."""
