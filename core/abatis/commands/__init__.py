"""The commands of ``defense``, each found through the entry-point group ``abatis.commands``."""
