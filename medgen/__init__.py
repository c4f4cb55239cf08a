"""medgen: 3D medical image translation that keeps geometry and Hounsfield units, and says how well it did."""

__version__ = "0.1.0"
