"""The contract: what a plugin imports (through `abatis`) and what it returns. Loads without torch."""
