"""Platforms that verl lacks."""
