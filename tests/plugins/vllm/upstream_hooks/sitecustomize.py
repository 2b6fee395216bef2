"""Lets PyPI's torchvision, linked against CUDA, be imported beside a CPU build of torch.

Its compiled operators cannot load there, and its import dies where it describes these two. vLLM's tests start
processes of their own that import it, so this has to happen at the start of any of them.
"""

import torch

LIBRARY = torch.library.Library("torchvision", "DEF")
LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
