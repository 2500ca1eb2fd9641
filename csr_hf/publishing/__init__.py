"""Publish a head as one repository that every library of the ecosystem can load.

`export` writes the folder, `hub` uploads it, `sentence_transformers` saves the head as native modules. The fixed text
of the card is model_card_template.md; `model_card_sections` computes the sentences and tables in it,
`model_card_metadata` what the Hub reads, `model_card_facts` reads the files of a run that both quote, and `model_card`
joins them.
"""
