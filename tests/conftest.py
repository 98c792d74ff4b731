"""One thread for torch and for linear algebra: on two busy cores the suite is several times faster so."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # it reads them once

torch.set_num_threads(1)
