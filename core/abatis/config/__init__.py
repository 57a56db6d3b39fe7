"""The configuration of a run: options, command line, TOML, recipes, and how plugins are found and loaded."""
