"""The data plane: resolving, and streams that pass through without being stored."""
