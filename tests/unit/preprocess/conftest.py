from __future__ import annotations

import sys
from types import ModuleType

# The compiled operators of PyPI's torchvision do not load with the CPU build of torch. Its transforms are Python code
# that does not use them, but importing the package registers their meta functions, which fails.
sys.modules.setdefault("torchvision._meta_registrations", ModuleType("torchvision._meta_registrations"))
