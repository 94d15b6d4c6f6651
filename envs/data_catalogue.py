"""The built-in data sets, as data: where code and files stand, what they are, whom to cite."""

from __future__ import annotations

from lazybench.envs import data_sheets as sheets
from lazybench.specs import DataSpec

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
        sheet=sheets.GLYPHS,
    ),
    DataSpec(
        "glyphshard",
        "lazybench.envs.datasets.glyphs:open_glyphs",
        {"jitter": "hard"},
        embedded=True,
        licence="bitmaps rendered from DejaVu fonts; see NOTICE",
        about="the same characters under hard jitter",
        cites=("lazybench",),
        sheet=sheets.GLYPHS_HARD,
    ),
    DataSpec(
        "omniglot",
        "lazybench.envs.datasets.omniglot:open_omniglot",
        {"protocol": "random"},
        probe=("omniglot-py", "omniglot", "images_background", "images_background.zip"),
        licence="MIT",
        about="1,623 handwritten characters; 1100/100/423 random classes, train also rotated",
        cites=("lake2015omniglot", "finn2017maml"),
        sheet=sheets.OMNIGLOT,
    ),
    DataSpec(
        "omniglot-alphabet",
        "lazybench.envs.datasets.omniglot:open_omniglot",
        {"protocol": "alphabet"},
        probe=("omniglot-py", "omniglot", "images_background", "images_background.zip"),
        licence="MIT",
        about="the authors' split: background alphabets train and validate, evaluation ones test",
        cites=("lake2015omniglot",),
        sheet=sheets.OMNIGLOT_ALPHABET,
    ),
    DataSpec(
        "cifarfs",
        "lazybench.envs.datasets.cifar:open_cifar100",
        {"protocol": "cifarfs"},
        probe=_CIFAR100,
        licence="none stated; cite Krizhevsky (2009)",
        about="CIFAR-100's classes, 600 images each, 32x32; 64/16/20 random classes (CIFAR-FS)",
        cites=("krizhevsky2009cifar", "bertinetto2019r2d2"),
        sheet=sheets.CIFAR_FS,
    ),
    DataSpec(
        "fc100",
        "lazybench.envs.datasets.cifar:open_cifar100",
        {"protocol": "fc100"},
        probe=_CIFAR100,
        licence="none stated; cite Krizhevsky (2009)",
        about="the same images; 60/20/20 classes of 12/4/4 disjoint super-classes",
        cites=("krizhevsky2009cifar", "oreshkin2018tadam"),
        sheet=sheets.FC100,
    ),
    DataSpec(
        "miniimagenet",
        "lazybench.envs.datasets.miniimagenet:open_miniimagenet",
        probe=_MINI,
        licence="ImageNet's terms: non-commercial research and education",
        about="100 ImageNet classes, 600 images each, 84x84; 64/16/20 of Ravi & Larochelle",
        cites=("vinyals2016matching", "ravi2017optimization", "russakovsky2015imagenet"),
        sheet=sheets.MINI_IMAGENET,
    ),
    DataSpec(
        "tieredimagenet",
        "lazybench.envs.datasets.tieredimagenet:open_tieredimagenet",
        probe=_TIERED,
        licence="ImageNet's terms: non-commercial research and education",
        about="608 ImageNet classes, 84x84; 351/97/160 of 20/6/8 disjoint categories",
        cites=("ren2018tiered", "russakovsky2015imagenet"),
        sheet=sheets.TIERED_IMAGENET,
    ),
    DataSpec(
        "mnist",
        "lazybench.envs.datasets.mnist:open_mnist",
        probe=_MNIST,
        licence="none stated; cite LeCun et al. (1998)",
        about="10 handwritten digits, 60,000 train and 10,000 test images, 28x28",
        cites=("lecun1998mnist",),
        sheet=sheets.MNIST,
    ),
    DataSpec(
        "cifar10",
        "lazybench.envs.datasets.cifar_whole:open_cifar",
        {"name": "cifar10"},
        probe=_CIFAR10,
        licence="none stated; cite Krizhevsky (2009)",
        about="10 classes, 6,000 images each, 32x32; official train and test parts",
        cites=("krizhevsky2009cifar",),
        sheet=sheets.CIFAR10,
    ),
    DataSpec(
        "cifar100",
        "lazybench.envs.datasets.cifar_whole:open_cifar",
        {"name": "cifar100"},
        probe=_CIFAR100,
        licence="none stated; cite Krizhevsky (2009)",
        about="100 classes, 600 images each, 32x32; official train and test parts",
        cites=("krizhevsky2009cifar",),
        sheet=sheets.CIFAR100,
    ),
    DataSpec(
        "sinusoid",
        "lazybench.envs.datasets.sinusoid:open_sinusoid",
        embedded=True,
        licence="none needed: generated",
        about="sine waves of random amplitude and phase, for regression",
        cites=("finn2017maml",),
        sheet=sheets.SINUSOID,
    ),
)
