"""`latens models`"""

from __future__ import annotations

from latens.cli.common import OutputOptions, Reporter, human_size


def models(*, options: OutputOptions = OutputOptions()) -> None:  # noqa: B008
    """List the bundled models with size, license, hash and measured quality.

    Models from `latens train` are given by their folder in place of a name.
    """
    from latens.catalogue import MODELS

    reporter = Reporter(options)
    rows = [("name", "system", "size", "license", "sha256", "measured")]
    for entry in MODELS.values():
        measured = ", ".join(f"{name} {value:g}" for name, value in entry.metrics.items()) or "-"
        rows.append((entry.name, entry.system, human_size(entry.size), entry.license, entry.sha256[:12], measured))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    texts = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if reporter.format == "human":
        reporter.result({}, texts[0])
    for entry, text in zip(MODELS.values(), texts[1:], strict=True):
        reporter.result(entry.to_dict(), text)
