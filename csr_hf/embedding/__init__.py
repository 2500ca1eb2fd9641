"""Turn texts and images into dense vectors, once.

`backbone` loads the frozen model and embeds with it, `cache` keeps the embeddings on disk, `images` reads images.
"""
