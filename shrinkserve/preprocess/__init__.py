"""The preprocessing contract: one description of what happens to an image before the network.

Training's evaluation, the exporter's parity checks, the server's DALI pipeline and the client all read the same
`Preprocess`, so they all feed the network the same pixels. Between stages an image is always **uint8, HWC, at the
network's size and in its channel order**; the normalisation is inside the exported graph.

```
encoded bytes --decode--> 8-bit image --layout, resize--> uint8 [size, size, channels] --scale_and_shift--> network
```
"""

from shrinkserve.preprocess.checks import MAX_SIZE
from shrinkserve.preprocess.contract import Preprocess
from shrinkserve.preprocess.decode import FORMATS, MAX_BYTES, MAX_PIXELS, ChannelOrder, as_decoded, dali_bytes, decode
from shrinkserve.preprocess.files import IMAGE_SUFFIXES, Listing, find_images, list_images
from shrinkserve.preprocess.geometry import Box, Geometry, ImageLayout
from shrinkserve.preprocess.resize import DALI_FILTERS, Interpolation, Pixels

__all__ = [
    "DALI_FILTERS",
    "FORMATS",
    "IMAGE_SUFFIXES",
    "MAX_BYTES",
    "MAX_PIXELS",
    "MAX_SIZE",
    "Box",
    "ChannelOrder",
    "Geometry",
    "ImageLayout",
    "Interpolation",
    "Listing",
    "Pixels",
    "Preprocess",
    "as_decoded",
    "dali_bytes",
    "decode",
    "find_images",
    "list_images",
]
