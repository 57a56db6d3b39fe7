"""The subcommands of ``defense``, each found through the entry-point group ``abatis.commands``."""
