"""Makes a small JPEG of each photo that comes."""

import os

from PIL import Image, ImageOps

Image.preinit()  # load the common formats now, while nobody waits


def handle(event, context):
    name = event["path"]
    picture = Image.open("/photos/" + name)
    picture.draft("RGB", (512, 512))  # let the decoder skip what the thumbnail has no room for
    picture = ImageOps.exif_transpose(picture)
    picture.thumbnail((256, 256))
    # picture = picture.convert("RGB")  # a JPEG has no transparency
    small = f"/made/thumbs/{name}.jpg"
    part = f"{small}.{context.run}"
    os.makedirs(os.path.dirname(small), exist_ok=True)
    picture.save(part, "JPEG", quality=85)
    os.replace(part, small)  # a repeated event makes the same file again
    return {"thumbnail": small}
