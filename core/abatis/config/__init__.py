"""The configuration of a run: options, command line, TOML, recipes, and finding plugins."""
