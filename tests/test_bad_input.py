# ruff: noqa: F811  fixtures are imported
"""Every kind of bad input through the real command line, in a process of its own.

Each ends with one line on stderr, without a traceback, and leaves every folder as it was. What is wrong
with the arguments themselves, tyro says in a box.
"""

import pytest
import torch
from bad_input import DATA, EVAL, refused, said, tree, world  # noqa: F401  fixtures

TRAIN = ["train", "--out", "{tmp}/out", *DATA, "--quiet"]
PICTURE = "{world}/data/it's class 5/"
SUPPORT = ["--support", PICTURE + "1.jpg", PICTURE + "1.png"]
PREDICT = ["predict", "--checkpoint", "{world}/run", "--query", PICTURE + "2.jpg"]
OUT = ["--out", "{tmp}/mask.png"]

ARGUMENTS = {
    "no command": ([], "train, eval, predict, check, download, bench, compare, ablate"),
    "no such option": ([*EVAL, "--episode", "3"], "Perhaps you meant: --episodes"),
    "no such flag": ([*TRAIN, "--resum"], "Perhaps you meant: --resume"),
    "a flag turned round": ([*EVAL, "--cache"], "Perhaps you meant: --no-cache"),
    "not a number": ([*EVAL, "--shots", "many"], "Error parsing --shots"),
    "no whole number": ([*EVAL, "--shots", "2.5"], "Error parsing --shots"),
    "no such choice": ([*EVAL, "--novel", "keep"], "--novel"),
    "a value missing": ([*EVAL, "--json"], "--json"),
    "an option missing": (["train"], "--out PATH"),
    "a mask missing": ([*PREDICT, *OUT, "--support", "a.jpg"], "--support"),
}

BAD = {
    "unknown command": (["evaluate"], "unknown command 'evaluate'; did you mean 'eval'?"),
    "no support": ([*PREDICT, *OUT], "--support: give labelled pictures, as IMAGE MASK"),
    # names
    "unknown data": (["train", "--out", "{tmp}/o", "--data", "shape"], "did you mean 'shapes'?"),
    "unknown knob": ([*EVAL, "--data", "shapes:occlusin=1"], "did you mean 'occlusion'?"),
    "unknown arm": ([*TRAIN, "--arm", "pfnet"], "unknown arm 'pfnet'; did you mean 'pfenet'?"),
    "unknown preset": ([*TRAIN, "--preset", "fast"], "unknown preset 'fast'; known: quick, paper"),
    "unknown setting": ([*TRAIN, "--set", "stesp=3"], "did you mean 'steps'?"),
    "no setting": ([*TRAIN, "--set", "steps"], "--set steps: write NAME=VALUE"),
    "bad setting": ([*TRAIN, "--set", "steps=many"], "TrainConfig.steps = 'many'"),
    "unknown download": (["download", "resnet5"], "'resnet5'; did you mean 'resnet50'?"),
    "bad network": ([*TRAIN, "--set", "channels=1.5"], "DANetConfig.channels = 1.5"),
    "bad backbone": ([*TRAIN, "--set", "backbone=resnet5"], "did you mean 'resnet50'?"),
    "a setting of zero": ([*TRAIN, "--set", "batch=0"], "TrainConfig.batch = 0: use 1 or more"),
    "negative seed": ([*TRAIN, "--seed", "-1"], "seed = -1: use 0 or more"),
    "unknown split": ([*EVAL, "--split", "tset"], "unknown split 'tset'; did you mean 'test'?"),
    "unknown fold": ([*EVAL, "--fold", "4"], "fold 4 does not exist; choose 0..3"),
    "unknown device": ([*EVAL, "--device", "gpu"], "unknown device 'gpu'"),
    "unknown replay": (["replay", "{world}/run/last.safetensors"], "holds no failed step"),
    "no GPU": ([*EVAL, "--device", "cuda"], "no usable GPU here; use cpu"),
    "no GPU to train": ([*TRAIN, "--device", "cuda:3"], "no usable GPU here; use cpu"),
    "no GPU to predict": ([*PREDICT, *SUPPORT, *OUT, "--device", "cuda"], "no usable GPU here"),
    # data
    "missing folder": ([*EVAL, "--data", "folder:{world}/none"], "no folder {world}/none"),
    "nothing to check": (["check", "--data", "folder:{world}/none"], "no folder {world}/none"),
    "no folder named": ([*EVAL, "--data", "folder:"], "names no folder"),
    "a file": ([*TRAIN, "--data", "folder:{world}/file"], "no folder {world}/file"),
    "empty folder": ([*TRAIN, "--data", "folder:{world}/empty"], "no class folders"),
    "no classes in it": (
        [*EVAL, "--data", "folder:{world}/data/it's class 5"],
        "5 is a single class; give",
    ),
    "pictures, not classes": ([*EVAL, "--data", "folder:{world}"], "no pictures in {world}/run"),
    "no mask": (
        [*TRAIN, "--data", "folder:{world}/unpaired"],
        "0/2.jpg and 1 more there; add 2.png beside it, or remove the picture (and 1 more, which fss check",
    ),
    "small class": (
        [*EVAL, "--data", "folder:{world}/small"],
        'class "it\'s class 5" has 1 pictures, but a 1-shot episode needs 2',
    ),
    "no class large enough": (
        [*EVAL, "--shots", "9", "--skip-small-classes"],
        "no test class has the 10 pictures that a 9-shot episode needs",
    ),
    "truncated picture": ([*EVAL, "--data", "folder:{world}/broken"], "5/4.jpg cannot be read"),
    "mask of other size": (
        [*TRAIN, "--data", "folder:{world}/odd", "--workers", "0"],
        "1.png is 60 x 80 pixels, its picture 1.jpg 80 x 60",
    ),
    "mask without an object": (
        [*TRAIN, "--data", "folder:{world}/bare", "--workers", "2"],
        "0/1.png marks no object (all 0); mark it with 255, or remove",
    ),
    "no VOC tree": (
        [*EVAL, "--data", "pascal5i:{world}/data"],
        "data is no VOC tree, without JPEGImages and masks (SegmentationClassAug, or",
    ),
    "a class of another split": (
        [*EVAL, "--classes", "it's class 0"],
        'no class "it\'s class 0" in the test split of folder:{world}',
    ),
    "no lists of classes": ([*EVAL, "--lists", "{world}/empty"], "no lists of classes in {world}/"),
    "an option of other data": ([*EVAL, "--novel", "drop"], "--novel says nothing about 'folder'"),
    "no pixels": ([*EVAL, "--min-pixels", "0"], "DataConfig.min_pixels = 0: use 1 or more"),
    "no size of their own": ([*EVAL, "--data", "shapes", "--at", "label"], "these pictures have no size of their own"),
    # episodes
    "no shots": ([*EVAL, "--shots", "0"], "shots = 0: an episode needs at least 1"),
    "too many shots": ([*EVAL, "--shots", "4"], 'class "it\'s class 4" has 4 pictures'),
    "shots to train": ([*TRAIN, "--set", "shots=4"], "has 4 pictures"),
    "no episodes": ([*EVAL, "--episodes", "0"], "episodes = 0: use 1 or more"),
    "seed of a list": ([*EVAL, "--seed", "-3"], "seed = -3: use 0 or more"),
    "tiny size": ([*EVAL, "--size", "8"], "size 8 px is too small"),
    "size zero": ([*EVAL, "--size", "0"], "size 0 px is too small"),
    "size to predict": ([*PREDICT, *SUPPORT, *OUT, "--size", "0"], "size 0 px is too small"),
    "a list to draw from": (
        [*EVAL, "--list", "{world}/none.json", "--skip-small-classes"],
        "--skip-small-classes is for a list that is drawn, not for --list",
    ),
    "no list": ([*EVAL, "--list", "{world}/none"], "none: not a saved episode list"),
    "a picture as list": ([*EVAL, "--list", PICTURE + "1.png"], "not a saved episode list"),
    "empty list": ([*EVAL, "--list", "{world}/none.json"], "the episode list is empty"),
    # checkpoints
    "no checkpoint": ([*EVAL, "--checkpoint", "published"], "no checkpoint 'published': no such file"),
    "no run": ([*EVAL, "--checkpoint", "{world}/data"], "data: no best.safetensors"),
    "truncated": ([*EVAL, "--checkpoint", "{world}/short.safetensors"], "not a whole safetensors"),
    "foreign": ([*EVAL, "--checkpoint", "{world}/foreign.safetensors"], "not a checkpoint of this"),
    "pickle": ([*EVAL, "--checkpoint", "{world}/code.pt"], "never opened, since they can carry co"),
    "other network": (
        [*EVAL, "--checkpoint", "{world}/other.safetensors"],
        "other.safetensors: weights of another architecture",
    ),
    "other backbone": (
        [*EVAL, "--checkpoint", "{world}/backbone.safetensors"],
        "backbone.safetensors: trained on other efficientnet_lite0 weights",
    ),
    "no state to resume": (
        ["train", *DATA, "--out", "{world}/half", "--resume"],
        "holds best.safetensors, but no last.safetensors to go on from",
    ),
    "half a run": (["train", *DATA, "--out", "{world}/half"], "half: holds a run already"),
    "text": ([*PREDICT, *SUPPORT, *OUT, "--checkpoint", "{world}/file"], "not a whole safetensors"),
    # places to write
    "run below a file": (["train", *DATA, "--out", "{world}/file/run"], "cannot be written (Not a"),
    "run in a file": (["train", *DATA, "--out", "{world}/file"], "cannot be written (File exists"),
    "a run already": (["train", *DATA, "--out", "{world}/run"], "holds a run already; add --res"),
    "other settings": (["train", *DATA, "--out", "{world}/run", "--resume"], "was trained wit"),
    "name too long": ([*EVAL, "--checkpoint", 300 * "x"], "File name too long"),
    "json below a file": ([*EVAL, "--json", "{world}/file/x.json"], "x.json: cannot be written"),
    "json is a folder": ([*EVAL, "--json", "{world}/run"], "run: cannot be written (Is a"),
    "list below a file": ([*EVAL, "--save-list", "{world}/file/x"], "x: cannot be written"),
    "mask below a file": ([*PREDICT, *SUPPORT, "--out", "{world}/file/x.png"], "cannot be written"),
    # prediction
    "mask no PNG": ([*PREDICT, *SUPPORT, "--out", "{tmp}/mask.jpg"], "let the name end in .png"),
    "mask over input": ([*PREDICT, *SUPPORT, "--out", PICTURE + "1.png"], "is one of the inputs"),
    "query is support": (
        [*PREDICT, *OUT, "--support", PICTURE + "2.jpg", PICTURE + "2.png"],
        "2.jpg: is both support and query",
    ),
    "query is a link to the support": (
        [*PREDICT, *OUT, "--support", PICTURE + "1.jpg", PICTURE + "1.png", "--query", "{world}/link.jpg"],
        "link.jpg: is both support and query",
    ),
    "query is no picture": ([*PREDICT, *SUPPORT, *OUT, "--query", "{world}/file"], "is no picture"),
    "mask of other picture": (
        [*PREDICT, *OUT, "--support", PICTURE + "1.jpg", "{world}/other/it's class 0/1.png"],
        "is 90 x 50 pixels",
    ),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_that_do_not_parse_are_named(case, tmp_path, said):
    args, message = ARGUMENTS[case]
    code, out, err = said(*(arg.replace("{tmp}", str(tmp_path)) for arg in args), NO_COLOR=1)
    words = " ".join(err.replace("│", " ").split())
    assert (code, out) == (2, "")
    assert message in words and "Traceback" not in words
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.skipif(torch.cuda.is_available(), reason="the cases ask for a GPU where there is none")
def test_bad_input_is_one_line_and_exit_code_2(case, world, tmp_path, refused, cache):
    args, message = BAD[case]
    before = tree(world)

    def filled(text: str) -> str:
        return text.replace("{world}", str(world)).replace("{tmp}", str(tmp_path))

    assert filled(message) in refused(*map(filled, args))
    assert tree(world) == before
    assert tree(tmp_path) == {}
    assert not list(cache.rglob("*.part-*"))
    # These are found after a first cache (of the training classes) is whole.
    if case not in ("mask of other size", "mask without an object"):
        assert not list(cache.rglob("*.npy"))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("code.pt", "damaged, or a pickle of more than tensors"),
        ("foreign.safetensors", "weights of another network"),
        ("none.pth", "no such file of backbone weights"),
    ],
)
def test_bad_weights_of_the_backbone(world, tmp_path, refused, file, message):
    before = tree(world)
    args = ("train", "--out", tmp_path / "out", "--data", f"folder:{world / 'data'}", "--quiet")
    err = refused(*args, "--backbone-weights", world / file, patches={})
    assert f"{world / file}: {message}" in err
    assert tree(world) == before and tree(tmp_path) == {}
