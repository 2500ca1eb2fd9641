"""What is made of embeddings once: partitions of similar documents, their signs, and settings measured on samples."""
