"""Mixed real clients against a real service for a long time, in good weather and bad.

    python -m tests.soak --minutes 30 --seed 1 --plot soak.png --csv soak.csv

`actors` are clients in good faith and note in the `ledger` what they were told, `hostile` ones are
not (`actor` is what they have in common), the `weather` lets Immich fail, `watch` looks at the
process, and `run` has the final word.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The processes and their users are those of the tests of real clients.
_TESTS = Path(__file__).resolve().parents[1]
for _place in (_TESTS / "clients", _TESTS / "trust", _TESTS.parent):
    if str(_place) not in sys.path:
        sys.path.insert(0, str(_place))
