"""Label picture files by labelled picture files: one object or several classes, one query or a folder of them."""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from tqdm.auto import tqdm

from fss.data.folder import save_picture
from fss.data.layout import SUFFIXES
from fss.data.pictures import letterbox_image, read_pair, read_rgb
from fss.data.splits import in_order
from fss.data.voc import palette
from fss.errors import InputError
from fss.files import names_in, write_atomically
from fss.model import DANet
from fss.predict import NOTHING_FOUND, encode, label
from fss.viz import FALSE_ALARM, HIT, MISS, Picture, outline, strip, tinted

TINT = 0.45
COLUMNS, SHOWN = 5, 100  # pictures in a row of an overview, and in all of it
THUMBNAIL = 320  # pixels of a side

PALETTE = palette()  # VOC's, but for the first classes: colours that nobody takes for one another (Okabe and Ito)
PALETTE[1:8] = [
    np.multiply(to_rgb(color), 255).round()
    for color in (HIT, FALSE_ALARM, MISS, "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
]

Pairs = Sequence[tuple[Path, Path]]


def label_files(
    model: DANet,
    support: Pairs,
    query: Path,
    out: Path,
    *,
    size: int | None = None,
    overlay: Path | None = None,
    progress: bool = False,
) -> Iterator[tuple[bool, str]]:
    """Write a mask for each query; yield, for each, whether it was made and a line about it.

    Where pictures of the support are called ``NAME=PICTURE``, each name is a class: a mask then holds
    the number of a class, or 0, in the colours of ``PALETTE``, and a text file names number n in line n
    (`classes.txt` of a folder, else beside the mask). Otherwise a mask holds 0 and 255. Where nothing
    is found, it is 0 everywhere: then the query may lack the object, which is no error.

    Args:
        model: the network, in eval mode.
        support: labelled pictures and their masks.
        query: a picture, or a folder of pictures, in which a `.png` beside a picture of its name is a mask.
        out: the mask's file, or, of a folder, a folder for a `<picture>.png` each.
        size: side in pixels that pictures are fitted into, by default as the network was trained.
        overlay: file for a picture of the queries under their masks; of a folder by default
            `overview.png` in ``out``, with the first hundred.
        progress: show a bar.

    Raises:
        InputError: a support that is no picture or mask, or of which only some have a name; a query that
            is a support picture; a single query that cannot be read; a folder without pictures, or with
            two of one name; a size below 32; a file that cannot be written, or would overwrite an input or
            the names of other classes.
    """
    size = model.trained.get("size", 224) if size is None else size
    if size < 32:
        raise InputError(f"size {size} px is too small; choose at least 32")
    folder = query.is_dir()
    classes = _by_class(support)
    queries = _outputs(query, out) if folder else {out: query}
    if not folder and out.suffix.lower() != ".png":
        raise InputError(f"{out}: masks are written as PNG; let the name end in .png")
    overlay = out / "overview.png" if folder and overlay is None else overlay
    named = "" not in classes
    legend = (out / "classes.txt" if folder else out.with_suffix(".txt")) if named else None
    names = "".join(f"{name}\n" for name in classes).encode()
    if legend is not None and legend.exists() and legend.read_bytes() != names:
        raise InputError(f"{legend}: is there already and names other classes; choose another --out")
    if overlay is not None and (
        overlay.resolve() in {path.resolve() for path in queries} or overlay.suffix.lower() != ".png"
    ):
        raise InputError(f"{overlay}: the overview is a PNG, and none of the masks; choose another --overlay")
    known = {path.resolve() for pairs in classes.values() for pair in pairs for path in pair}
    # Beside a query may lie its own label, by which one wants to judge the prediction.
    inputs = known | {path.resolve() for each in queries.values() for path in (each, each.with_suffix(".png"))}
    for path in (*queries, *([overlay] if overlay else [])):
        if path.resolve() in inputs:
            raise InputError(f"{path}: is one of the inputs, or the mask beside the query; choose another name for it")
    if not folder and query.resolve() in known:
        raise InputError(f"{query}: is both support and query; its mask is known already")
    codes = [encode(model, [read_pair(*pair) for pair in pairs], size) for pairs in classes.values()]
    if legend is not None:
        write_atomically(legend, names)
    colors = {n: to_hex(PALETTE[n] / 255) for n in range(1, len(classes) + 1)}
    shown: dict[str, Picture] = {}
    for path, source in tqdm(queries.items(), desc="label", unit="picture", disable=not (progress and folder)):
        try:
            picture = read_rgb(source)
        except InputError as error:
            if not folder:
                raise
            yield False, f"left out: {error}"
            continue
        labels = label(model, codes, picture, size)
        image = Image.fromarray(labels if named else labels * np.uint8(255))
        if named:
            image.putpalette(PALETTE.tobytes())
        save_picture(path, image)
        if overlay is not None and len(shown) < SHOWN:
            for n, color in colors.items():
                picture = outline(tinted(picture, labels == n, color, TINT), labels == n, color)
            shown[source.name] = letterbox_image(picture, THUMBNAIL) if folder else picture
        shares = [(name, 100 * np.mean(labels == n)) for n, name in enumerate(classes, 1) if (labels == n).any()]
        found = ", ".join(f"{share:.1f} % {name or 'of the picture is object'}" for name, share in shares)
        yield True, f"{path}: {found}" if found else NOTHING_FOUND.format(source)
    if overlay is not None and shown:
        encoded = io.BytesIO()
        _draw(shown, dict(zip(classes, colors.values(), strict=True))).savefig(encoded, dpi=150)
        write_atomically(overlay, encoded.getvalue())


def _by_class(support: Pairs) -> dict[str, list[tuple[Path, Path]]]:
    """Class, "" where there is but one without a name -> labelled pictures."""
    classes: dict[str, list[tuple[Path, Path]]] = {}
    for image, mask in support:
        name, equals, path = str(image).partition("=")
        if not (name and equals) or image.exists():  # a file's own name may have that sign
            name, path = "", str(image)
        if not path or not name.isprintable():
            raise InputError(f"--support {str(image)!r}: write NAME=IMAGE, a name in one line and a picture's path")
        classes.setdefault(name, []).append((Path(path), mask))
    if not classes or ("" in classes and len(classes) > 1):
        raise InputError("--support: give labelled pictures, as IMAGE MASK, or all of them as NAME=IMAGE MASK")
    if len(classes) > 254:
        raise InputError(f"--support: {len(classes)} classes, where a mask can hold 254")
    return classes


def _outputs(query: Path, out: Path) -> dict[Path, Path]:
    """The mask's file of each picture in a folder."""
    names = [Path(name) for name in names_in(query)]
    pictures = {name.stem: name for name in names if name.suffix.lower() in SUFFIXES}
    twice = [name for name in names if name.suffix.lower() in SUFFIXES and pictures[name.stem] != name]
    if twice:
        raise InputError(f"{query / twice[0]} and {pictures[twice[0].stem]} would get one mask; rename one")
    pictures = {name.stem: name for name in names if name.suffix.lower() == ".png"} | pictures
    if not pictures:
        raise InputError(f"no pictures in {query}; they end in .png, {', '.join(SUFFIXES)}")
    if out.suffix.lower() == ".png" or out.is_file() or out.resolve() == query.resolve():
        raise InputError(f"--out {out}: {query} is a folder, so give another folder for its masks")
    return {out / f"{stem}.png": query / pictures[stem] for stem in in_order(pictures)}


def _draw(pictures: Mapping[str, Picture], colors: Mapping[str, str]) -> Figure:
    """Draw pictures below their names, and the classes' colours."""
    columns = min(COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    blank = np.full((1, 1, 3), 255, np.uint8)
    padding = {" " * n: blank for n in range(1, rows * columns - len(pictures) + 1)}
    shown = {name.replace("$", r"\$"): picture for name, picture in pictures.items()}  # no formulas
    figure, _ = strip({**shown, **padding}, width=2.4 * columns if columns > 1 else 7, rows=rows)
    if "" not in colors:
        figure.legend(
            handles=[Patch(facecolor=color, label=name.replace("$", r"\$")) for name, color in colors.items()],
            loc="outside lower center",
            ncols=COLUMNS,
            frameon=False,
        )
    return figure
