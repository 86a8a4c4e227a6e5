"""The public name of the adapter of `torch.nn.Module`s."""

from properties.targets.modules import from_module

__all__ = ["from_module"]
