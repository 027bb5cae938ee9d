"""Writes down what a photo says about itself."""

import json
import os

from PIL import ExifTags, Image

Image.preinit()  # load the common formats now, while nobody waits

WANTED = {"Make", "Model", "DateTime", "Orientation", "Software", "ImageDescription"}


def handle(event, context):
    name = event["path"]
    with Image.open("/photos/" + name) as picture:
        exif = {ExifTags.TAGS.get(tag): str(value) for tag, value in picture.getexif().items()}
        facts = {
            "name": name,
            "bytes": event["size"],
            "width": picture.width,
            "height": picture.height,
            "format": picture.format,
            "mode": picture.mode,
            "exif": {tag: value for tag, value in exif.items() if tag in WANTED},
            "event": context.cloudevent["id"],
        }
    out = f"/made/metadata/{name}.json"
    part = f"{out}.{context.run}"
    os.makedirs(os.path.dirname(out), exist_ok=True)
    with open(part, "w", encoding="utf-8") as f:
        json.dump(facts, f, indent=2)
    os.replace(part, out)  # a repeated event makes the same file again
    return facts
