"""Installs this plug-in as a Maya module. Standard library only, Python 3.9 or newer."""
