"""Blocks as Markdown and as HTML."""

import studies

from crate_jax import page as page_lib
from crate_jax.page import Code, Heading, Paragraph, Picture, Table


def blocks(folder):
  (folder / "a.png").write_bytes(studies.PIXEL)
  return [
    Paragraph("**No:** a < b & `x|y`.", lead=True),
    Heading("Losses"),
    Table(("a|b", "<c>"), [("1 *", "**2**")]),
    Table(("what",), [("words",)], text=True),
    Picture(folder / "a.png", 'what "it" shows'),
    Code("a < b && **c**"),
  ]


def test_markdown_links_its_pictures_and_keeps_its_tables_whole(tmp_path):
  assert page_lib.markdown("Why?", blocks(tmp_path)) == (
    "# Why?\n\n**No:** a < b & `x|y`.\n\n## Losses\n\n| a/b | <c> |\n| --- | --- |\n"
    "| 1 * | **2** |\n\n| what |\n| --- |\n| words |\n\n![what \"it\" shows](a.png)\n\n"
    "```\na < b && **c**\n```\n"
  )  # fmt: skip


def test_html_escapes_what_it_is_given_and_holds_its_pictures(tmp_path):
  page = page_lib.page("a < b?", blocks(tmp_path))
  for said in (
    "<title>a &lt; b?</title>",
    "<p class=lead><strong>No:</strong> a &lt; b &amp; <code>x|y</code>.</p>",
    "<h2>Losses</h2>",
    '<th scope="col">&lt;c&gt;</th>',
    "<td>1 *</td><td><strong>2</strong></td>",
    "<table class=text>",
    'alt="what &quot;it&quot; shows" src="data:image/png;base64,iVBORw0KGgo',
    "<pre>a &lt; b &amp;&amp; **c**</pre>",
  ):
    assert said in page
  assert "<c>" not in page and "a.png" not in page
