"""What does a place of the query attend to? One episode, one network, one place at a time.

``Explorer`` answers with numbers and PNG bytes, and needs no widgets. ``explore``, ``explore_world`` and
``draw_masks`` are widgets for JupyterLab around it; they are imported when first asked for. All scripts lie in
this folder; nothing is fetched from another host.

Without widgets: ``attended`` (what a network says of an episode), ``headless`` (what is chosen and shown of it),
``panels`` (titled pictures as one PNG), ``networks`` and ``scenes`` (what is offered: networks, episodes), ``paint``
(from strokes to masks). Widgets: ``explore_widget`` (the explorer and its controls), ``paint_widget`` (the mask
painter), ``play`` (sliders for a picture of yours), and ``elements``, of which all three are made.
"""

from typing import TYPE_CHECKING, Any

from fss.explorer.headless import Explorer
from fss.explorer.networks import NETWORKS, network

if TYPE_CHECKING:
    from fss.explorer.explore_widget import ExploreBox, explore, explore_world
    from fss.explorer.paint_widget import PaintBox, draw_masks

__all__ = ["NETWORKS", "ExploreBox", "Explorer", "PaintBox", "draw_masks", "explore", "explore_world", "network"]


def __getattr__(name: str) -> Any:
    """Import a widget when it is first asked for.

    Raises:
        ImportError: what widgets need is not installed; the message says how to install it.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from fss.explorer import explore_widget, paint_widget
    except ModuleNotFoundError as error:
        raise ImportError(
            f"the widgets need {error.name}: pip install 'fss-attention-kit[notebooks]', then restart "
            "the kernel and reload the page"
        ) from error
    return getattr(paint_widget if name in ("PaintBox", "draw_masks") else explore_widget, name)
