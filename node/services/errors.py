"""What the services refuse or cannot do, where no row of the problem table fits: for commands and for retries."""


class RowRefused(Exception):
    """One row or file of an ingest is not taken; the text says why in plain words and never holds the holder's value."""


class ManifestRefused(Exception):
    """The manifest cannot be read at all, so no row of it was taken; the text says what to change."""


class IngestStopped(Exception):
    """The ingest cannot go on; what was stored before is whole, and the same command goes on from there."""


class Contended(Exception):
    """Another writer changed the same document or object in between; the whole step is to be tried again."""


class TokenNotFound(Exception):
    """There is no role token with this identifier that is still good."""
