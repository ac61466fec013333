"""Clips: one reader and one writer for every verb. Frames are FFmpeg's own planes, upright, with true time stamps.

`reader.open_clip` reads files and folders of images, `writer.open_writer` writes files, `rewrite.rewrite_clip` passes the
frames of a clip through a function of RGB arrays.
"""
