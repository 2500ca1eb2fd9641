"""Texts with topics, in two parts: documents that are searched, and examples of what the topics are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
from datasets import load_dataset

_CHARACTERS = 300
# Reuters calls its topics by abbreviations.
_REUTERS = {
    "acq": "mergers and acquisitions", "alum": "aluminium", "bop": "balance of payments", "carcass": "meat",
    "cpi": "consumer prices", "crude": "crude oil", "dlr": "US dollar", "earn": "company earnings",
    "gas": "gasoline", "gnp": "gross national product", "ipi": "industrial production", "iron-steel": "iron and steel",
    "meal-feed": "meal and feed", "money-fx": "foreign exchange", "money-supply": "money supply",
    "nat-gas": "natural gas", "oilseed": "oilseeds", "reserves": "foreign reserves", "ship": "shipping",
    "veg-oil": "vegetable oil", "wpi": "wholesale prices", "interest": "interest rates", "yen": "Japanese yen",
}  # fmt: skip


class Part(NamedTuple):
    """Texts and the topics of each."""

    texts: list[str]
    topics: list[frozenset[str]]


class Topics(NamedTuple):
    """One data set."""

    documents: Part
    examples: Part
    words: Mapping[str, str]
    """What each topic is called in a question."""


def read_topics(reuters: Path) -> dict[str, Topics]:
    """Read the three data sets.

    Args:
        reuters: Parquet file with the columns title, body and topics.
    """
    return {
        "Banking77": _read_hub("mteb/banking77"),
        "MTOPIntent": _read_hub("mteb/mtop_intent_classification", "en"),
        "Reuters-21578": _read_reuters(reuters),
    }


def _read_hub(*name: str) -> Topics:
    data = load_dataset(*name)
    parts = [
        Part(list(data[split]["text"]), [frozenset([label]) for label in data[split]["label_text"]])
        for split in ("test", "train")
    ]
    known = {topic for part in parts for topics in part.topics for topic in topics}
    return Topics(*parts, {topic: topic.replace("_", " ").lower() for topic in known})


def _read_reuters(path: Path) -> Topics:
    """Take the texts of more than the two topics that are most of the set, every second as a document."""
    parts = (Part([], []), Part([], []))
    for row in pq.read_table(path).to_pylist():
        topics = frozenset(filter(None, row["topics"].split(",")))
        if not topics - {"earn", "acq"}:
            continue
        part = parts[(len(parts[0].texts) + len(parts[1].texts)) % 2]
        part.texts.append(f"{row['title']}. {row['body']}"[:_CHARACTERS])
        part.topics.append(topics)
    known = {topic for part in parts for topics in part.topics for topic in topics}
    return Topics(*parts, {topic: _REUTERS.get(topic, topic.replace("-", " ")) for topic in known})
