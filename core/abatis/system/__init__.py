"""Files, locks, signals, processes, devices, and code of the user: what lies under everything else."""
