"""The icons of NNI's page: `python -m tests.benchmarks.icons` writes `autocompress/engines/nni/icons.woff`.

NNI's page takes its icons from a font on Microsoft's servers, whose license allows no copies. The font that is written
has the glyphs of Codicons (Microsoft, CC BY 4.0), which NNI ships for its editor, at the code points of the page.
"""

from pathlib import Path

import nni_node
from fontTools import subset
from fontTools.ttLib import TTFont

import autocompress.engines.nni

_GLYPHS = {
    0xE700: "menu",
    0xE70D: "chevron-down",
    0xE70E: "chevron-up",
    0xE70F: "edit",
    0xE711: "close",
    0xE712: "ellipsis",
    0xE71C: "filter",
    0xE721: "search",
    0xE72C: "refresh",
    0xE73E: "check",
    0xE74A: "arrow-up",
    0xE74B: "arrow-down",
    0xE76B: "chevron-left",
    0xE76C: "chevron-right",
    0xE7BA: "warning",
    0xE845: "settings-gear",
    0xE894: "close",
    0xE895: "sync",
    0xE896: "desktop-download",
    0xE8C8: "copy",
    0xE8C9: "report",
    0xE8D8: "sync-ignored",
    0xE8FD: "list-unordered",
    0xE91E: "watch",
    0xE930: "pass",
    0xE946: "info",
    0xE96D: "chevron-up",
    0xE96E: "chevron-down",
    0xE971: "chevron-up",
    0xE972: "chevron-down",
    0xE973: "chevron-left",
    0xE974: "chevron-right",
    0xE9E6: "graph-line",
    0xE9E9: "settings",
    0xEA39: "error",
    0xEA3A: "circle-large",
    0xEAFC: "graph-line",
    0xEBF9: "history",
    0xECE4: "circle-slash",
    0xEE0A: "reply",
    0xEE68: "arrow-up",
    0xEE69: "arrow-down",
    0xEF42: "graph-line",
    0xF09A: "search-stop",
    0xF138: "circle-large",
    0xF13E: "pass",
    0xF140: "circle-slash",
}
"""Code point of Fluent's icons -> name of the glyph."""
_NOTICE = (
    "Codicons, Copyright (c) Microsoft Corporation, CC BY 4.0, https://github.com/microsoft/vscode-codicons; a subset"
)


def main():
    (codicons,) = Path(nni_node.__path__[0], "static", "static", "media").glob("codicon.*.ttf")
    font = TTFont(codicons)
    for table in font["cmap"].tables:
        table.cmap = dict(_GLYPHS) if table.isUnicode() else {}
    chosen = subset.Subsetter(subset.Options(name_IDs=[], glyph_names=False, notdef_outline=True))
    chosen.populate(unicodes=_GLYPHS)
    chosen.subset(font)
    font["name"].setName(_NOTICE, 0, 3, 1, 0x409)
    font.flavor = "woff"
    target = Path(autocompress.engines.nni.__file__).with_name("icons.woff")
    font.save(target)
    print(f"{target.name}: {len(_GLYPHS)} icons, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
