"""RobustBench's networks by name, ``rb:NAME``: our own builders and readers, from a table."""
