"""What crosses the wire between nodes, lockers and requesters: standard library and cryptography only."""
