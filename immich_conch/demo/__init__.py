"""An Immich of our own: the test double and the embedded default.  Imports nothing else of ours."""
