"""The one helper that notebooks share: a number that is checked and does not flake."""


def report(name: str, got: float, ref: float, tol: float) -> None:
    """Print ``got`` beside the expected ``ref``, and whether it is farther off than ``tol``.

    A notebook's stored outputs are compared with those of the next run. The last digits of a
    measured number differ between machines, so the comparison leaves ``got`` out of such a line
    (``tests/nbval.cfg``); the remark that it is out of its tolerance, it sees.
    """
    remark = "" if abs(got - ref) <= tol else ": not within the tolerance"
    print(f"{name}: {got:.4g} (expected {ref:g} ± {tol:g}{remark})")
