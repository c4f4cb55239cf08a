"""Models in formats of other programs: ONNX, torch.export and MONAI bundles."""
