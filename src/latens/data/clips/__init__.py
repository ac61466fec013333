"""Reading and writing of clips. Frames are FFmpeg frames, upright, with their time stamps.

`reader.open_clip` reads files and folders of images, `writer.open_writer` writes files, `rewrite.rewrite_clip` passes the
frames of a clip through a function of RGB arrays.
"""
