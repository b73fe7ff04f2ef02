"""Counts words, a paragraph a step. It runs in the page that index.html is."""

import asyncio
import re
from collections import Counter

from durably import Step, job


@job("count-words")
async def count_words(step: Step, text: str) -> list[tuple[str, int]]:
    """The ten most frequent words."""
    paragraphs = [part for part in text.split("\n\n") if part.strip()]
    total: Counter[str] = Counter()
    for number, paragraph in enumerate(paragraphs, 1):
        total.update(await step.run(f"paragraph {number}", words_of, paragraph))
        step.progress(number, len(paragraphs))
    return total.most_common(10)


async def words_of(paragraph: str) -> Counter[str]:
    await asyncio.sleep(0.3)  # for there to be something to see
    return Counter(re.findall(r"\w{3,}", paragraph.lower()))
