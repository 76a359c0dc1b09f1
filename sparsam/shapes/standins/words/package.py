"""The package itself."""

__version__ = "0.0"
