"""One repository that every library of the ecosystem can load: layouts, model card, and the way to the Hub."""
