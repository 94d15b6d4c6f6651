"""Batch norms inside other people's modules, made to take the statistics that they are told."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lazybench.errors import UsageError
from lazybench.nets.net import Pick, batch_norm, own


class BatchStatistics(nn.Module):
    """A batch norm that takes the moments that `pick` gives."""

    def __init__(self, norm: _BatchNorm) -> None:
        """Take over a batch norm's parameters."""
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.pick: Pick = own

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised inputs."""
        return batch_norm(x, self.weight, self.bias, self.pick(x), self.eps)


def with_batch_statistics(name: str, module: nn.Module) -> nn.Module:
    """Return the module with each batch norm in it replaced.

    Raises:
        UsageError: a batch norm that does more than normalise; `name` tells of which backbone.
    """
    if isinstance(module, _BatchNorm):
        if type(module).forward not in (_BatchNorm.forward, nn.SyncBatchNorm.forward):
            # It does more than normalise (an activation, say), and that would be lost.
            raise UsageError(
                f"backbone '{name}' has a batch norm with a forward of its own, "
                f"{type(module).__name__}; use torch's BatchNorm1d, 2d or 3d"
            )
        return BatchStatistics(module)
    for child, part in list(module.named_children()):
        setattr(module, child, with_batch_statistics(name, part))
    return module


def paths(module: nn.Module) -> dict[str, str]:
    """Return the names that nets give to the parameters to train, and their paths in the module."""
    norms = {name for name, part in module.named_modules() if isinstance(part, BatchStatistics)}
    return {
        f"{'norm' if path.rpartition('.')[0] in norms else 'body'}.{path}": path
        for path, value in module.named_parameters()
        if value.requires_grad
    }
