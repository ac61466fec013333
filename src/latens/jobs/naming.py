"""Names of inputs in a job."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from latens.errors import UsageError, counted

if TYPE_CHECKING:
    from latens.jobs.job import Input

logger = logging.getLogger(__name__)


def with_distinct_names(inputs: Sequence[Input], place: str) -> list[Input]:
    """The inputs with distinct names of results: the ending of photo.jpg next to photo.png is doubled, with a line.

    The verbs name results after the stem of an input, so the result of photo.jpg.jpg is photo.jpg.ltn, as without a job. Raises
    UsageError for inputs with one name.
    """
    given = Counter(entry.id for entry in inputs)
    if doubled := [entry.id for entry in inputs if given[entry.id] > 1]:
        what = f"{counted(len(doubled), 'input')} with the name of another one, such as {doubled[0]}"
        raise UsageError(what, hint="remove what is listed twice, and give other files of one name jobs of their own")
    ids, longer = [entry.id for entry in inputs], [entry.id + os.path.splitext(entry.id)[1] for entry in inputs]
    renamed: set[int] = set()
    while True:
        stems = Counter(os.path.splitext(name)[0] for name in ids)
        clashing = {i for i, name in enumerate(ids) if stems[os.path.splitext(name)[0]] > 1} - renamed
        if not clashing:
            break
        renamed |= clashing
        ids = [longer[i] if i in renamed else name for i, name in enumerate(ids)]
    if renamed:
        one = min(renamed)
        what = f"{counted(len(renamed), 'input')} whose results would share a name, such as {inputs[one].id}"
        logger.warning("%s: %s, named with a doubled ending in this job: %s", place, what, ids[one])
    return [entry._replace(id=name) for entry, name in zip(inputs, ids, strict=True)]
