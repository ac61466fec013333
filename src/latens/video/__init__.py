"""Clips made small with ordinary encoders, a region of interest kept sharp.

`latens.video.compress.compress_clip` is what `latens video compress` runs.
"""
