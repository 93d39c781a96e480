"""A list that is thinned keeps every source and every forgery."""

from collections import Counter
from dataclasses import replace

from training.localisation.listing import thinned


def test_no_source_outweighs_the_others_and_forgeries_stay(listed):
    photographs = [row for row in listed if row.kind == "photograph"]
    rows = [*listed, *(replace(row, origin="other") for row in photographs[:2])]
    kept = thinned(rows, 3)
    assert Counter((row.kind, row.origin) for row in kept) == Counter(
        {("photograph", "made"): 3, ("photograph", "other"): 2, ("forged", "hand"): 1}
    )
    assert thinned(rows[::-1], 3) == kept
