"""The words of the command line and its tables; `recipes/glossary.md` is made of them too."""

GLOSSARY = {
    "backbone": "The embedding model. It stays as it is; a head learns from its embeddings.",
    "head": "The small model that turns an embedding into a code and back.",
    "code": "What is kept of an embedding: the numbers of a few latents, and a value for each.",
    "latent": "One of the many features that a head has learned, numbered from 0. A code uses a few of them.",
    "k": "How many latents a code uses at most. More of them keep more, and take more bytes.",
    "explained variance": "The share of the embeddings' variance that comes back when codes are decoded. 1 is all.",
    "dead": "A latent that no text uses any more. It takes space and does nothing.",
    "posting": "One entry of an index: this document uses this latent. Fewer of them to read make a search faster.",
    "even use": "The postings that a query would meet if all latents were used equally often: the fewest possible.",
    "pursuit": "Matching pursuit, a slower way to encode: latents are chosen one by one, each for what is missing.",
    "refine": "Encode better than the head alone does: with the same latents and better values, or by pursuit.",
    "decoded": "A code turned back into an embedding, which is compared with the query.",
    "copies": "Embeddings in fewer bytes that are kept beside the codes: float16, int8, or binary (sign bits).",
    "sign bits": "One bit for each dimension of an embedding: whether it is positive.",
    "candidates": "The documents that a fast first look finds, and that are compared more exactly afterwards.",
    "rerank": "Compare the candidates again, with decoded codes or copies, which gives a better order.",
    "block": "Documents that are alike and lie together in an index.",
    "nprobe": "How many blocks a search visits. All of them are slowest and miss nothing.",
    "kept": "Also retention: the score of a method divided by that of the full embeddings. 1 is as good as these.",
    "dense": "The full embeddings, compared without any code.",
    "dense top 10": "The share of the ten best documents of the full embeddings that a method finds.",
    "nDCG@10": "How high the right documents are among the first ten, from 0 to 1.",
    "held out": "Rows that are never trained on, so that figures on them are those of new texts.",
    "bytes": "What is stored of one document.",
}
"""Word -> what it means, in a sentence or two."""
