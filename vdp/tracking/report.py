"""results/report.html: the scores and pictures of a run in one self-contained page."""

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem }
table { border-collapse: collapse; margin: .5rem 0 1.5rem }
th, td { padding: .15rem .8rem; text-align: left; border-bottom: 1px solid #ddd }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.verdict { padding: .6rem 1rem; border-left: .4rem solid #2a7d3f; background: #eef7f0; font-weight: 600 }
.failed { border-color: #b3261e; background: #fbeceb }
img { max-width: 100%; display: block; margin: .3rem 0 1.2rem }
"""


@dataclass(frozen=True)
class Table:
    """A titled table of text cells; columns from index `numbers` on are aligned as numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: int = 1

    def csv(self) -> str:
        """The header and the rows as CSV."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.header, *self.rows])
        return text.getvalue()


@dataclass(frozen=True)
class Section:
    """A test set or task: heading, verdict, paragraphs of notes, tables, name and WebP bytes of pictures."""

    name: str
    verdict: str
    failed: bool
    notes: Sequence[str]
    tables: Sequence[Table]
    strips: Sequence[tuple[str, bytes]]


def html_report(title: str, notes: Sequence[str], sections: Sequence[Section]) -> str:
    """Build the HTML page: a title, paragraphs of notes, then the sections."""
    parts = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(note)}</p>" for note in notes)]
    parts += [_section(section) for section in sections]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>{''.join(parts)}</body></html>\n"
    )


def _section(section: Section) -> str:
    kind = "verdict failed" if section.failed else "verdict"
    return (
        f"\n<h2>{escape(section.name)}</h2>\n"
        f'<p class="{kind}">{escape(section.verdict)}</p>\n'
        + "".join(f"<p>{escape(note)}</p>\n" for note in section.notes)
        + "".join(_table(table) for table in section.tables)
        + ("<h3>Clips</h3>\n" if section.strips else "")
        + "".join(_picture(name, data) for name, data in section.strips)
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = "".join(
        "<tr>" + "".join(_cell(cell, n >= table.numbers) for n, cell in enumerate(row)) + "</tr>\n"
        for row in table.rows
    )
    return f"<h3>{escape(table.title)}</h3>\n<table><tr>{head}</tr>\n{rows}</table>\n"


def _cell(text: str, number: bool) -> str:
    return f'<td class="number">{escape(text)}</td>' if number else f"<td>{escape(text)}</td>"


def _picture(name: str, data: bytes) -> str:
    source = base64.b64encode(data).decode()
    return f'<img loading="lazy" alt="{escape(name)}" src="data:image/webp;base64,{source}">\n'
