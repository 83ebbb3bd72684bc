"""A report as blocks, and these as Markdown or as one HTML page that needs no other file."""

import base64
import dataclasses
import html
import re
from collections.abc import Sequence
from pathlib import Path

STYLE = """\
:root { color-scheme: light dark; --ink: #1c1f23; --soft: #5c646e; --line: #d9dde2; --page: #fff;
  --mark: #f3f6f9; --blue: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ea; --soft: #a2aab3; --line: #3a4047;
  --page: #16181b; --mark: #20242a; --blue: #6cb8e6; } }
body { margin: 0 auto; max-width: 64rem; padding: 2rem 1.25rem 4rem; background: var(--page);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; padding-top: .8rem;
  border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .6rem 0; }
.lead { background: var(--mark); border-left: 4px solid var(--blue); padding: .8rem 1.1rem;
  max-width: none; font-size: 1.06rem; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .7rem; text-align: right; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
td:first-child, th:first-child { text-align: left; }
table.text td, table.text th { text-align: left; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; background: #fff;
  border-radius: 4px; }
figcaption { color: var(--soft); font-size: .88rem; max-width: 46rem; }
code, pre { font: .85rem/1.5 ui-monospace, monospace; } pre { background: var(--mark);
  padding: .8rem 1rem; overflow-x: auto; }
"""


@dataclasses.dataclass(frozen=True)
class Heading:
  """The name of a section."""

  text: str


@dataclasses.dataclass(frozen=True)
class Paragraph:
  """Sentences; **words** between two stars are strong, `words` between backticks are code.

  Attributes:
    text: the sentences.
    lead: this is the answer, which the page sets apart.
  """

  text: str
  lead: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows of cells under a head.

  Attributes:
    head: names of the columns.
    rows: as many cells each.
    text: the cells are words, which stand at the left.
  """

  head: Sequence[str]
  rows: Sequence[Sequence[str]]
  text: bool = False


@dataclasses.dataclass(frozen=True)
class Picture:
  """A PNG beside the report.

  Attributes:
    path: of the file.
    caption: what it shows.
  """

  path: Path
  caption: str


@dataclasses.dataclass(frozen=True)
class Code:
  """Lines as they are typed."""

  text: str


Block = Heading | Paragraph | Table | Picture | Code


def markdown(title: str, blocks: Sequence[Block]) -> str:
  """The report as Markdown; its pictures are links to the files beside it."""
  parts = [f"# {title}", ""]
  for block in blocks:
    match block:
      case Heading(text):
        parts += [f"## {text}"]
      case Paragraph(text):
        parts += [text]
      case Table(head, rows):
        lines = [head, ["---"] * len(head), *rows]
        parts += [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]
      case Picture(path, caption):
        parts += [f"![{caption}]({path.name})"]
      case Code(text):
        parts += ["```", text, "```"]
    parts.append("")
  return "\n".join(parts)


def page(title: str, blocks: Sequence[Block], style: str = "", end: str = "") -> str:
  """The report as one HTML page with its pictures inside; it asks for nothing over the network.

  Args:
    title: of the page.
    blocks: the report.
    style: CSS of what follows.
    end: HTML that stands after the report.
  """
  body = "\n".join(_html(block) for block in blocks)
  return (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{html.escape(title)}</title>\n<style>\n{STYLE}{style}</style>\n</head>\n<body>\n"
    f"<h1>{html.escape(title)}</h1>\n{body}\n{end}</body>\n</html>\n"
  )


def _html(block: Block) -> str:
  match block:
    case Heading(text):
      return f"<h2>{_inline(text)}</h2>"
    case Paragraph(text, lead):
      return f"{'<p class=lead>' if lead else '<p>'}{_inline(text)}</p>"
    case Table(head, rows, text):
      names = "".join(f'<th scope="col">{_inline(name)}</th>' for name in head)
      lines = "".join(
        "<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>\n" for row in rows
      )
      return (
        f'<div class="scroll"><table{" class=text" if text else ""}>\n<thead><tr>{names}</tr>'
        f"</thead>\n<tbody>\n{lines}</tbody>\n</table></div>"
      )
    case Picture(path, caption):
      image = base64.b64encode(path.read_bytes()).decode()
      said = html.escape(caption)
      return (
        f'<figure><img alt="{said}" src="data:image/png;base64,{image}">'
        f"<figcaption>{said}</figcaption></figure>"
      )
    case Code(text):
      return f"<pre>{html.escape(text)}</pre>"


def _inline(text: str) -> str:
  """Escapes what HTML would read, then sets strong words and code."""
  text = html.escape(text, quote=False)
  text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text)
  return re.sub(r"`(.+?)`", r"<code>\1</code>", text)
