"""Makes a small JPEG of a picture."""

import io
import os

from PIL import Image, ImageOps

SIZE = int(os.environ.get("SIZE") or 128)

Image.preinit()  # load the common formats now, while nobody waits


def handle(event, context):
    if not isinstance(event, bytes) or not event:
        raise ValueError("send a picture, as in: curl --data-binary @photo.jpg")
    picture = Image.open(io.BytesIO(event))
    picture.draft("RGB", (2 * SIZE, 2 * SIZE))  # let the decoder skip what the thumbnail has no room for
    picture = ImageOps.exif_transpose(picture).convert("RGB")
    picture.thumbnail((SIZE, SIZE))
    small = io.BytesIO()
    picture.save(small, "JPEG", quality=85)
    return small.getvalue()
