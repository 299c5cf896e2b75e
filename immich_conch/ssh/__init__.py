"""SSH: Conch with its traps closed; nothing of Immich in it."""
