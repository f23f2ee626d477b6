"""The locker's rules. Nothing here knows of HTTP; each public call is one transaction, times are arguments."""
