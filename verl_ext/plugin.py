"""The one door into verl."""
