"""Widgets for JupyterLab around ``fss.explorer``, which holds the logic.

All scripts lie in this folder; nothing is fetched from another host.
"""

try:
    import anywidget  # noqa: F401
    import ipywidgets  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"the widgets need {error.name}: pip install 'fss-attention-kit[notebooks]', then restart "
        "the kernel and reload the page"
    ) from error

from fss.explorer.widgets.explore_box import ExploreBox, explore, explore_world
from fss.explorer.widgets.paint_box import PaintBox, draw_masks

__all__ = ["ExploreBox", "PaintBox", "draw_masks", "explore", "explore_world"]
