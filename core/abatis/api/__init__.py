"""The contract: what plugins receive and return, exported by ``abatis``. Loads without torch."""
