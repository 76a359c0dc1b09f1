"""Names that somebody may give a model, a label, a data set or a folder to steer whoever shows or stores it."""

_HTML = (
    "<script>alert(1)</script>", "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>", "<svg><style><img src=x></style></svg>", "\"><b>x", "'><i>x",
    "' onmouseover='alert(1)", "<iframe src=//x>", "<!--", "-->", "]]>", "<![CDATA[x", "<?xml version='1.0'?>",
    "&lt;b&gt;", "&#x3c;b&#x3e;", "&", "<base href=//x>", "<style>*{display:none}", "javascript:alert(1)",
    "data:text/html,<b>", "<math><mtext><mglyph>", "<a href=x>y</a>", "</title>", "</table>", "<plaintext>",
)  # fmt: skip
_TEMPLATES = (
    "{{7*7}}", "${7*7}", "#{7*7}", "{% raw %}", "{{ self.__init__.__globals__ }}", "<%= 7 %>", "%s%n%d",
    "{0.__class__}", "{}", "$(touch x)", "`touch x`", "; touch x", "| touch x", "&& touch x", "$HOME", "~root",
    "~", "!!", "%PATH%",
)  # fmt: skip
_TERMINAL = (
    "\x1b[31mred", "\x1b[2J", "\x1b]0;title\x07", "\x1b]8;;http://x\x1b\\link", "\x1b[6n", "\x1b[?1049h",
    "\x1bP+q\x1b\\", "\x1bc", "\x1b]52;c;eA==\x07", "\x9b31m", "\x9d0;t\x9c", "\x90x\x9c", "a\rb", "a\x08b",
    "a\x7fb", "\x07", "\x0e\x0f", "a\x0bb\x0cc", "a\u2028b", "a\u2029b", "a\x85b", "[red]x[/red]", "[/]",
    "[link=http://x]y", ":smile:", "\\[red]", "\x1b", "\u241b[31m",
)  # fmt: skip
_UNICODE = (
    "\u202ecod.exe", "\u2066x\u2069", "\u2067x", "\u200fx", "\u061cx", "a\u200bb", "a\u200db", "\ufeffx",
    "\u00ad", "\u00e9", "e\u0301", "\u212b", "\u00c5", "A\u030a", "\ufb01", "\U0001f600",
    "\U0001f468\u200d\U0001f469", "Z" + "\u0351" * 60, "\u0130", "\u0131", "\ud800", "\udfff", "\ud83d",
    "\udcff", "\uffff", "\U0010ffff", "\ufdd0", "\u3000", "\u00a0", "\uff0e\uff0e\uff0f", "\u2024\u2024/",
    "\U000e0041\U000e0042", "\ufff9a\ufffab\ufffb", "\u115f", "\u3164",
)  # fmt: skip
_PATHS = (
    "..", "../x", "../../x", "/etc/passwd", "a/../../x", "..\\x", "C:\\x", "C:x", "\\\\host\\x",
    "file:///etc/passwd", "%2e%2e%2fx", "%252e%252e%252fx", "a\0b", "\0", "x\0.safetensors", ".", "...", "./x",
    "x/.", "x/..", "//x", "~/x", "CON", "NUL.txt", "aux", "x.", "x ", " x", "-rf", "--help", "-", "*", "?",
    "x" * 255, "x" * 256, "x" * 5000, "\u00e9" * 200, ".git", ".ssh/id", "a:b",
)  # fmt: skip
_TABLES = (
    "=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(1)", "=HYPERLINK(\"http://x\")", "\t=1", "a,b", 'a"b', "a\nb",
    "a\r\nb", "'", "''", '"', '"""', "x' OR '1'='1", "'; DROP TABLE x; --", "\\", "\\'", "> <http://x> .",
    "} UNION {", "SERVICE <http://x>", "null", "NaN", "true", "0", "1e999", "", " ", "\n", "\t", "__proto__",
    "constructor", "__class__", "LABEL_0", "sparsam", "quant_method", "x" * 100_000,
)  # fmt: skip

STRINGS = (*_HTML, *_TEMPLATES, *_TERMINAL, *_UNICODE, *_PATHS, *_TABLES)

DIRECTIONS = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""What turns the direction of a text."""
