"""From an image to its label map, with a finished run or several."""
