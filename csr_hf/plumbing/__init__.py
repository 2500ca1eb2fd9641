"""Helpers that every other package may use, and that import none of these.

`settings` (checked dataclasses), `logs`, `provenance` (where a result comes from), `atomic` (files written whole),
`redaction`, `distributed` (processes), `threads`, `jit`.
"""
