"""Plugins that are each broken in one way: ``FAILS`` is the standard test that says so, ``WORDS`` are among what it says."""
