"""Files, locks, signals, processes, devices and the user's own modules."""
