"""Regions of interest in clips: boxes, ellipses, mask files, masks paired with frames by time, and tracking.

A region of a frame is an array (H, W) of uint8 weights: 0 background, 255 region, soft in between. All coordinates refer to the
upright frame. Boxes are x0, y0, x1, y1 in pixels; pixel i covers [i, i + 1).
"""
