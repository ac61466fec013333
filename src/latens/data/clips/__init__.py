"""Reading and writing of clips. Frames are upright FFmpeg frames with time stamps.

`reader.open_clip` reads files and folders of images, `writer.open_writer` writes files, and `rewrite.rewrite_clip` applies a
function of RGB arrays to the frames of a clip.
"""
