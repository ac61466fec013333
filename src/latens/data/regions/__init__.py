"""Regions of interest in clips: boxes, ellipses, masks in files, masks paired with frames by time, and tracking.

A region of a frame is an array (H, W) of uint8 weights: 0 background, 255 region, between them soft. All coordinates are those
of the upright frame; boxes are x0, y0, x1, y1 in pixels, pixel i covering [i, i + 1).
"""
