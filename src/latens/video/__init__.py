"""Compression of clips with standard encoders (H.264, H.265, AV1) and higher quality in a region of interest.

`latens.video.compress.compress_clip` is what `latens video compress` runs.
"""
