"""JPEGs decoded by libjpeg-turbo straight into an array, where the package ``simplejpeg`` is there.

Pillow's pixels are the same where it was built on libjpeg-turbo too, but it keeps them four bytes wide: a
quarter of a photograph's time. What is damaged or unusual stays Pillow's, which decides what a picture is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

SAME_LIBRARY = features.check_feature("libjpeg_turbo")


def jpeg_pixels(data: bytes, picture: Image.Image) -> NDArray[np.uint8] | None:
    """The pixels [height, width, 3] of a whole colour JPEG, or None where Pillow has to decode it.

    Args:
        data: the file's bytes.
        picture: Pillow's view of them, whose size was checked; it is not decoded.
    """
    if simplejpeg is None or not SAME_LIBRARY or picture.format != "JPEG" or picture.mode != "RGB":
        return None
    try:
        # The header is parsed twice, by two parsers: bytes made to fool one of them go to Pillow.
        if simplejpeg.decode_jpeg_header(data)[:2] != picture.size[::-1]:
            return None
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB")
    except MemoryError:
        raise
    except Exception:
        # It refuses what libjpeg only warns of, and does not know every sampling of colours.
        return None
    return pixels
