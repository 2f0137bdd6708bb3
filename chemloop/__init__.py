"""ChemLoop explores one chemical system until its local chemical environments are exhausted."""

__version__ = "0.1.0"
