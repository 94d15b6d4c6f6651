"""The built-in data sets as data: modules, file locations, data sheets and citations.

`lazybench show ID` prints a data sheet; `python tools/write_datasheets.py` writes `docs/datasets/`.
"""

from __future__ import annotations

from collections.abc import Mapping

from lazybench.specs import DataSpec

Sheet = Mapping[str, str]
CONTENT, ORIGIN, HERE, LIMITS = (
    "Classes and instances",
    "How it was made",
    "What lazybench makes of it",
    "What to mind",
)
"""The headings of every sheet."""


def _sheet(content: str, origin: str, here: str, limits: str) -> Sheet:
    return dict(zip((CONTENT, ORIGIN, HERE, LIMITS), (content, origin, here, limits), strict=True))


_GLYPH_CONTENT = (
    "1,705 Unicode characters of 22 scripts (symbols, arrows and the like count as scripts, too), "
    "4 to 12 bitmaps each: 13,298 bitmaps of 28x28 grey pixels, strokes bright on black. Splits "
    "are by script: 1,129 characters of 7 scripts train, 151 of 7 validate, 425 of 8 test."
)
_GLYPH_ORIGIN = (
    "`tools/render_glyphs.py` rendered them once from the twelve faces of the DejaVu 2.35 fonts, "
    "dropped characters that look like another one, and froze the result in the package with its "
    "sha256. No person drew or labelled anything; a label is the character."
)
_GLYPH_LIMITS = (
    "Printed characters are easier than handwriting: deformations are random, not a writer's. The "
    "scripts are of very different sizes (Canadian syllabics are half of the test), and symbols "
    "dominate training. Use it to compare learners without any download; don't report it as "
    "Omniglot."
)
GLYPHS = _sheet(
    _GLYPH_CONTENT,
    _GLYPH_ORIGIN,
    "20 instances of each character: its faces in random order, each under a random rotation, "
    "scale, shear, shift and elastic deformation (`medium`), a pure function of the character and "
    "the instance. Long-tailed streams take 60 characters of all scripts with 210 training "
    "images, tested on faces held out; attack targets ten characters of the test scripts.",
    _GLYPH_LIMITS,
)
GLYPHS_HARD = _sheet(
    _GLYPH_CONTENT,
    _GLYPH_ORIGIN,
    "The same characters, smaller, under a stronger jitter (`hard`) with random stroke weight: "
    "the second tier of the boards.",
    _GLYPH_LIMITS,
)

_OMNIGLOT_CONTENT = (
    "1,623 handwritten characters of 50 alphabets, each drawn once by 20 people: 32,460 images of "
    "105x105 black and white pixels."
)
_OMNIGLOT_ORIGIN = (
    "Drawn online by paid volunteers (Amazon Mechanical Turk) for Lake, Salakhutdinov and "
    "Tenenbaum; the authors give it out with strokes as well, which lazybench doesn't use."
)
OMNIGLOT = _sheet(
    _OMNIGLOT_CONTENT,
    _OMNIGLOT_ORIGIN,
    "Images resized to 28x28, strokes bright. 1,100 / 100 / 423 classes at random, a fixed list "
    "in the package; train classes turned by 90, 180 and 270 degrees count as classes of their "
    "own, validation and test classes stay as they are.",
    "Random splits share alphabets between training and test. Papers differ in the split and in "
    "whether test classes are turned, so numbers of different papers aren't comparable; 5-way "
    "tasks are close to solved.",
)
OMNIGLOT_ALPHABET = _sheet(
    _OMNIGLOT_CONTENT,
    _OMNIGLOT_ORIGIN,
    "Images resized to 28x28, strokes bright, not turned. The authors' background alphabets train "
    "and validate, their evaluation alphabets test: no alphabet is on both sides.",
    "Harder than the random split, and closer to what the authors meant; fewer papers use it.",
)

_CIFAR_ORIGIN = (
    "Chosen from the 80 Million Tiny Images, which were gathered from web searches, and labelled "
    "by paid students (Krizhevsky 2009)."
)
_CIFAR_LIMITS = (
    "The images show what web searches gave in 2008, people among them, without anybody's "
    "consent; Tiny Images itself was withdrawn in 2020 for offensive labels, which these classes "
    "don't have. Some test images have near duplicates in training."
)
CIFAR_FS = _sheet(
    "CIFAR-100's 100 classes of 600 colour images, 32x32: 64 train, 16 validate, 20 test, a "
    "random split of classes fixed by its authors.",
    _CIFAR_ORIGIN,
    "All 600 images of a class, those of CIFAR-100's train and test parts together.",
    _CIFAR_LIMITS,
)
FC100 = _sheet(
    "The same images, split by super-class: 60 classes of 12 super-classes train, 20 of 4 "
    "validate, 20 of 4 test.",
    _CIFAR_ORIGIN,
    "All 600 images of a class. No super-class is on two sides, so training helps less than on "
    "CIFAR-FS.",
    _CIFAR_LIMITS,
)
CIFAR10 = _sheet(
    "10 classes, 6,000 colour images each, 32x32: 50,000 in the train part, 10,000 in the test "
    "part.",
    _CIFAR_ORIGIN,
    "Long-tailed streams and attack targets, on the official parts.",
    _CIFAR_LIMITS,
)
CIFAR100 = _sheet(
    "100 classes, 600 colour images each, 32x32: 50,000 in the train part, 10,000 in the test "
    "part.",
    _CIFAR_ORIGIN,
    "Long-tailed streams, on the official parts; 10 images a class of the train part are the dev "
    "set.",
    _CIFAR_LIMITS,
)

_IMAGENET_ORIGIN = (
    "Images of the ILSVRC 2012 classes, gathered from web searches and labelled by paid workers "
    "(Russakovsky et al. 2015)."
)
_IMAGENET_LIMITS = (
    "ImageNet's terms hold: non-commercial research and education, and the images remain their "
    "owners'. People appear in them without their consent. lazybench ships none of them."
)
MINI_IMAGENET = _sheet(
    "100 classes, 600 colour images each, 84x84: 64 train, 16 validate, 20 test, the split of "
    "Ravi and Larochelle.",
    _IMAGENET_ORIGIN + " Vinyals et al. (2016) chose 100 classes; everybody uses the other split.",
    "Read from the usual pickles, or resized to 84x84 from the JPEG files and their lists.",
    _IMAGENET_LIMITS + " Copies differ in how they were resized; so do their fingerprints.",
)
TIERED_IMAGENET = _sheet(
    "608 classes, 779,165 colour images, 84x84: 351 classes of 20 categories train (448,695 "
    "images), 97 of 6 validate (124,261), 160 of 8 test (206,209).",
    _IMAGENET_ORIGIN + " Ren et al. (2018) grouped the classes by ImageNet's hierarchy.",
    "Read from the authors' pickles, mapped to disk once. `tiered-…` names it where it is "
    "installed.",
    _IMAGENET_LIMITS,
)
MNIST = _sheet(
    "10 digits, 60,000 train and 10,000 test images, 28x28, grey.",
    "Digits written by employees of the US Census Bureau and by pupils, collected by NIST and "
    "mixed again by LeCun, Cortes and Burges.",
    "Attack targets and their white boxes, on the official parts.",
    "Solved by any classifier; what an attack achieves here says little about photographs.",
)
SINUSOID = _sheet(
    "Sine waves y = a sin(x - p) with a from .1 to 5, p from 0 to pi and x from -5 to 5, all "
    "uniform; without end.",
    "Generated: each trial's wave and points are a function of the trial's number.",
    "Regression: K points to learn from, 15 to predict; the score is the mean squared error.",
    "A toy problem: fit for checking a learner, not for ranking it.",
)


_CIFAR100 = tuple(
    f"{folder}cifar-100-python{ending}"
    for folder in ("", "cifar100/", "cifarfs/", "fc100/")
    for ending in ("", ".tar.gz")
)
_CIFAR10 = tuple(
    f"{folder}{name}"
    for folder in ("", "cifar10/")
    for name in ("cifar-10-batches-py", "cifar-10-python.tar.gz")
)
_MNIST = tuple(
    f"{folder}t10k-labels-idx1-ubyte{ending}"
    for folder in ("MNIST/raw/", "mnist/", "MNIST/", "mnist/raw/", "")
    for ending in (".gz", "")
)
# What comes last of a data set: a folder that is still filling up doesn't count as installed.
_MINI = tuple(
    f"{folder}/{file}"
    for folder in ("miniimagenet", "mini-imagenet", "miniimagenet/mini-imagenet")
    for file in ("mini-imagenet-cache-test.pkl", "test.csv")
)
_TIERED = tuple(
    f"{folder}/{prefix}test_images_png.pkl"
    for folder in ("tieredimagenet", "tiered-imagenet", "tieredimagenet/tiered-imagenet")
    for prefix in ("", "tiered-imagenet-")
)

DATA_CATALOGUE: tuple[DataSpec, ...] = (
    DataSpec(
        "glyphs",
        "lazybench.envs.datasets.glyphs:open_glyphs",
        {"jitter": "medium"},
        embedded=True,
        licence="bitmaps rendered from DejaVu fonts; see NOTICE",
        about="1,705 characters of 22 scripts, tiered by script, medium jitter, 28x28",
        cites=("lazybench",),
        sheet=GLYPHS,
    ),
    DataSpec(
        "glyphshard",
        "lazybench.envs.datasets.glyphs:open_glyphs",
        {"jitter": "hard"},
        embedded=True,
        licence="bitmaps rendered from DejaVu fonts; see NOTICE",
        about="the same characters under hard jitter",
        cites=("lazybench",),
        sheet=GLYPHS_HARD,
    ),
    DataSpec(
        "omniglot",
        "lazybench.envs.datasets.omniglot:open_omniglot",
        {"protocol": "random"},
        probe=("omniglot-py", "omniglot", "images_background", "images_background.zip"),
        licence="MIT",
        about="1,623 handwritten characters; 1100/100/423 random classes, train also rotated",
        cites=("lake2015omniglot", "finn2017maml"),
        sheet=OMNIGLOT,
    ),
    DataSpec(
        "omniglot-alphabet",
        "lazybench.envs.datasets.omniglot:open_omniglot",
        {"protocol": "alphabet"},
        probe=("omniglot-py", "omniglot", "images_background", "images_background.zip"),
        licence="MIT",
        about="the authors' split: background alphabets train and validate, evaluation ones test",
        cites=("lake2015omniglot",),
        sheet=OMNIGLOT_ALPHABET,
    ),
    DataSpec(
        "cifarfs",
        "lazybench.envs.datasets.cifar:open_cifar100",
        {"protocol": "cifarfs"},
        probe=_CIFAR100,
        licence="none stated; cite Krizhevsky (2009)",
        about="CIFAR-100's classes, 600 images each, 32x32; 64/16/20 random classes (CIFAR-FS)",
        cites=("krizhevsky2009cifar", "bertinetto2019r2d2"),
        sheet=CIFAR_FS,
    ),
    DataSpec(
        "fc100",
        "lazybench.envs.datasets.cifar:open_cifar100",
        {"protocol": "fc100"},
        probe=_CIFAR100,
        licence="none stated; cite Krizhevsky (2009)",
        about="the same images; 60/20/20 classes of 12/4/4 disjoint super-classes",
        cites=("krizhevsky2009cifar", "oreshkin2018tadam"),
        sheet=FC100,
    ),
    DataSpec(
        "miniimagenet",
        "lazybench.envs.datasets.miniimagenet:open_miniimagenet",
        probe=_MINI,
        licence="ImageNet's terms: non-commercial research and education",
        about="100 ImageNet classes, 600 images each, 84x84; 64/16/20 of Ravi & Larochelle",
        cites=("vinyals2016matching", "ravi2017optimization", "russakovsky2015imagenet"),
        sheet=MINI_IMAGENET,
    ),
    DataSpec(
        "tieredimagenet",
        "lazybench.envs.datasets.tieredimagenet:open_tieredimagenet",
        probe=_TIERED,
        licence="ImageNet's terms: non-commercial research and education",
        about="608 ImageNet classes, 84x84; 351/97/160 of 20/6/8 disjoint categories",
        cites=("ren2018tiered", "russakovsky2015imagenet"),
        sheet=TIERED_IMAGENET,
    ),
    DataSpec(
        "mnist",
        "lazybench.envs.datasets.mnist:open_mnist",
        probe=_MNIST,
        licence="none stated; cite LeCun et al. (1998)",
        about="10 handwritten digits, 60,000 train and 10,000 test images, 28x28",
        cites=("lecun1998mnist",),
        sheet=MNIST,
    ),
    DataSpec(
        "cifar10",
        "lazybench.envs.datasets.cifar_whole:open_cifar",
        {"name": "cifar10"},
        probe=_CIFAR10,
        licence="none stated; cite Krizhevsky (2009)",
        about="10 classes, 6,000 images each, 32x32; official train and test parts",
        cites=("krizhevsky2009cifar",),
        sheet=CIFAR10,
    ),
    DataSpec(
        "cifar100",
        "lazybench.envs.datasets.cifar_whole:open_cifar",
        {"name": "cifar100"},
        probe=_CIFAR100,
        licence="none stated; cite Krizhevsky (2009)",
        about="100 classes, 600 images each, 32x32; official train and test parts",
        cites=("krizhevsky2009cifar",),
        sheet=CIFAR100,
    ),
    DataSpec(
        "sinusoid",
        "lazybench.envs.datasets.sinusoid:open_sinusoid",
        embedded=True,
        licence="none needed: generated",
        about="sine waves of random amplitude and phase, for regression",
        cites=("finn2017maml",),
        sheet=SINUSOID,
    ),
)
