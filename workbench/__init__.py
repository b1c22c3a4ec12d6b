"""The engine room of the Training-Dynamics Workbench. Importing it loads nothing heavy."""

__version__ = "0.4.0"
