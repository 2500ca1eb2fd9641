"""Turn texts and images into dense vectors, once.

`loading` finds and loads the frozen model, `backbone` embeds with it, `cache` keeps the embeddings on disk, `images`
reads images.
"""
