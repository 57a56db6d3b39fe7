"""Plugins that are each broken in one way.

``FAILS`` is the standard test that finds it, ``WORDS`` are part of its message.
"""
