"""Both doors against the real torchmeta 1.8.0, in a process and a folder of its own.

It can't be installed beside any torch of today; without its dependencies, with stubs of the few
torchvision names that its imports need and one method that torch asks of subsets since, it works.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("torchmeta==1.8.0", "ordered-set", "tqdm", "h5py")

TRANSFORMS = """
class Compose:
    def __init__(self, transforms):
        self.transforms = transforms
    def __call__(self, x):
        for transform in self.transforms:
            x = transform(x)
        return x
class Resize: ...
class CenterCrop: ...
class ToTensor: ...
"""
UTILS = "list_dir = download_url = check_integrity = None\n"
UTILS += "_get_confirm_token = _save_response_content = download_file_from_google_drive = None\n"
UTILS += "extract_archive = calculate_md5 = download_and_extract_archive = list_files = None\n"

HEAD = """
import numpy as np, torch, torchmeta
from torchmeta.utils.data import BatchMetaDataLoader
from torchmeta.utils.data.task import SubsetTask
import lazybench
assert torchmeta.__version__ == "1.8.0"
SubsetTask.__getitems__ = lambda self, places: [self[place] for place in places]
"""

TAKES = """
from torchmeta.toy.helpers import sinusoid
loader = BatchMetaDataLoader(sinusoid(shots=5, test_shots=15, num_tasks=12, seed=0), batch_size=4)
env = lazybench.from_torchmeta(loader, num_envs=12, backend="torch", split="train")
assert (env.task.shot, env.task.query, env.task.target) == (5, 15, "array")
seen, _ = env.reset(seed=0)
_, reward, *_ = env.step(seen["query_y"])
assert reward.tolist() == [0.0] * 12
_ = env.reset(seed=0)
assert (env.step(torch.zeros_like(seen["query_y"]))[1] < 0).all()
"""

TAKES_CLASSES = """
from torchmeta.transforms import Categorical, ClassSplitter
from torchmeta.utils.data import ClassDataset, CombinationMetaDataset
from torchmeta.utils.data import Dataset
pool = lazybench.registry.open_data("glyphs").pool("train")
class Characters(ClassDataset):
    num_classes = 30
    def __init__(self, **kw):
        super().__init__(meta_train=True, **kw)
    def __getitem__(self, place):
        return Character(place, self.get_target_transform(place))
class Character(Dataset):
    def __init__(self, place, target_transform):
        super().__init__(place, target_transform=target_transform)
    def __len__(self):
        return int(pool.count[self.index])
    def __getitem__(self, i):
        x = torch.from_numpy(np.array(pool.x[pool.start[self.index] + i])).float() / 255
        target = self.index if self.target_transform is None else self.target_transform(self.index)
        return x, target
data = CombinationMetaDataset(Characters(), num_classes_per_task=5,
    target_transform=Categorical(num_classes=5))
data = ClassSplitter(data, shuffle=True, num_train_per_class=1, num_test_per_class=3)
env = lazybench.from_torchmeta(BatchMetaDataLoader(data, batch_size=4), num_envs=8, tasks=8,
    backend="torch")
assert (env.task.way, env.task.shot, env.task.query) == (5, 1, 3), env.task
seen, _ = env.reset(seed=0)
nearest = torch.cdist(seen["query_x"].flatten(2), seen["support_x"].flatten(2)).argmin(2)
reward = env.step(seen["support_y"].gather(1, nearest))[1]
assert reward.mean() > 0.4, reward
"""

EMITS = """
from torchmeta.modules import MetaLinear, MetaModule
from torchmeta.utils.gradient_based import gradient_update_parameters
from torchmeta.utils.prototype import get_prototypes, prototypical_loss
env = lazybench.make_env("glyphs-5way-1shot", split="train", num_envs=4, queries=3)
class Net(MetaModule):
    def __init__(self):
        super().__init__()
        self.layer = MetaLinear(784, 5)
    def forward(self, x, params=None):
        return self.layer(x.flatten(1), params=self.get_subdict(params, "layer"))
torch.manual_seed(0)
model = Net()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
losses = []
(same,) = lazybench.as_torchmeta(env, batches=1)
for batch in [same] * 15:
    (x, y), (query_x, query_y) = batch["train"], batch["test"]
    prototypes = get_prototypes(x.flatten(2), y, 5)
    assert prototypes.shape == (4, 5, 784)
    assert float(prototypical_loss(prototypes, query_x.flatten(2), query_y)) > 0
    outer = 0.0
    for task in range(4):
        inner = torch.nn.functional.cross_entropy(model(x[task]), y[task])
        model.zero_grad()
        params = gradient_update_parameters(model, inner, step_size=0.05)
        outer = outer + torch.nn.functional.cross_entropy(
            model(query_x[task], params=params), query_y[task])
    model.zero_grad(); outer.backward(); optimizer.step()
    losses.append(float(outer.detach()))
assert sum(losses[-5:]) < sum(losses[:5]), losses
"""


@pytest.fixture(scope="module")
def extra(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with torchmeta, what it imports at once, and the stubs."""
    folder = tmp_path_factory.mktemp("torchmeta")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    done = subprocess.run(
        [*command, str(folder), *PACKAGES], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"torchmeta can't be downloaded: {done.stderr.strip().splitlines()[-1]}")
    for name, text in (
        ("__init__", ""),
        ("transforms/__init__", TRANSFORMS),
        ("transforms/functional", ""),
        ("datasets/__init__", ""),
        ("datasets/utils", UTILS),
    ):
        path = folder / "torchvision" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("code", [TAKES, TAKES_CLASSES, EMITS], ids=["sines", "classes", "emits"])
def test_the_real_torchmeta(extra: Path, code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HEAD + code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(extra)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
