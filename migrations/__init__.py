"""Database histories: one of the node, one of the locker, each with its own version table."""
