"""vlm3d-gs as nodes of ComfyUI; ComfyUI finds them by `comfy_entrypoint`."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
