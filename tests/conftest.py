"""One torch thread: on two busy cores the suite is several times faster so."""

import torch

torch.set_num_threads(1)
