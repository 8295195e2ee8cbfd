"""The one helper that notebooks share: a number that is checked and does not flake."""


def report(name: str, got: float, ref: float, tol: float) -> None:
    """Print ``ref`` while ``got`` is within ``tol`` of it, and what was got otherwise.

    A notebook's stored outputs are compared with those of the next run. The last digits of a
    measured figure differ between machines; a printed reference does not, as long as it holds.
    """
    if abs(got - ref) <= tol:
        print(f"{name}: {ref:g} (± {tol:g})")
    else:
        print(f"{name}: {got:.4g} (expected {ref:g} ± {tol:g})")
