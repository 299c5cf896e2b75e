"""Measurements against peers that are started in the same run; see README.rst beside this."""
