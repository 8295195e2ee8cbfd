"""Join a folder of pictures and classes of the drawn world into one folder to train on.

    python tools/mix.py path/to/photos build/mixed --shapes 60

The joined folder's val and test classes are the photos' own, so that weights are chosen and
measured on real pictures; the drawn classes are training classes of fold 0 and join the training.
"""

import shutil
from pathlib import Path

import tyro

from fss.data import open_dataset
from fss.data.folder import save_folder
from fss.errors import InputError
from fss.files import write_atomically

SPLITS = ("train", "val", "test")


def mix(
    photos: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    shapes: int = 60,
    size: int = 256,
) -> None:
    """Write the joined folder.

    Args:
        photos: folder of pictures, in the layout that ``folder:`` reads.
        out: the folder to write; one that is there is refused.
        shapes: classes of the drawn world.
        size: side of the drawn pictures in pixels.
    """
    if out.exists():
        raise SystemExit(f"{out} is there; remove it, or choose another folder")
    try:
        classes = {split: open_dataset(f"folder:{photos}", split=split, size=size).classes for split in SPLITS}
        drawn = open_dataset("shapes", split="train", fold=0, size=size)
        if not 0 <= shapes <= len(drawn):
            raise SystemExit(f"--shapes {shapes}: choose 0..{len(drawn)}")
        beside = out.with_name(f"{out.name}.part")
        shutil.rmtree(beside, ignore_errors=True)
        for name in sum(classes.values(), ()):
            shutil.copytree(photos / name, beside / name)
        save_folder(drawn, beside, drawn.classes[:shapes])
        classes["train"] += drawn.classes[:shapes]
        for split, names in classes.items():
            write_atomically(beside / f"{split}.txt", "".join(f"{n}\n" for n in names).encode())
        beside.rename(out)
    except InputError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    tyro.cli(mix)
