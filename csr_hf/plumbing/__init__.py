"""What every part may use, and what imports none of them.

`settings` (checked dataclasses), `logs`, `provenance` (where a result comes from), `atomic` (files written whole),
`redaction`, `distributed` (processes), `threads`, `jit`.
"""
