"""Learn, train and take apart attention in few-shot segmentation.

``fss.load(name)`` returns a trained network. Everything else is imported from its module, so that
``import fss`` and ``fss --help`` stay quick.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fss.checkpoint import load

__all__ = ["load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in __all__:
        from fss import checkpoint

        return getattr(checkpoint, name)
    raise AttributeError(f"module 'fss' has no attribute {name!r}")
