"""Finished runs in forms that other programs read."""
