"""Turn reStructuredText and Python sources into plain training text."""

import re

ROLE = re.compile(r":[a-zA-Z0-9_:+-]+:`([^`]*)`")
LINK = re.compile(r"`([^`<]+?)\s*<[^>`]+>`_{1,2}")
DROPPED = re.compile(
    r"^(\s*)\.\. (_|index::|moduleauthor::|sectionauthor::|codeauthor::|only::|contents::|highlight::|testsetup::"
    r"|testcleanup::|XXX|image::|figure::|toctree::|currentmodule::|module::|py:currentmodule::|include::"
    r"|raw::|cssclass::|rst-class::|autosummary::|tabularcolumns::|[A-Za-z](?!.*::))"
)
PLAIN_DIRECTIVE = re.compile(
    r"^(\s*)\.\. (?:py:|c:)?(function|class|method|data|attribute|exception|classmethod|staticmethod"
    r"|decorator|coroutinefunction|coroutinemethod|macro|type|var|cfunction|cmember|cmacro)::\s*"
)


def role_text(match: re.Match[str]) -> str:
    """Return what a reader sees of a role: its title, or the last part of a ~name."""
    text = re.sub(r"\s*<[^>]*>$", "", match.group(1))
    return f"`{text.rsplit('.', 1)[-1] if text.startswith('~') else text.lstrip('!')}`"


def clean_inline(text: str) -> str:
    """Replace roles, links and double backquotes by single backquotes and bare text."""
    text = LINK.sub(r"\1", ROLE.sub(role_text, text))
    return text.replace("``", "`").replace("|version|", "3.11").replace("\\ ", "")


def indent_of(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def drop_directives(lines: list[str]) -> list[str]:
    """Remove directives that carry no prose (index, labels, comments, …) with their bodies."""
    kept: list[str] = []
    body_of: int | None = None
    for line in lines:
        if body_of is not None and (not line.strip() or indent_of(line) > body_of):
            continue
        body_of = None
        if DROPPED.match(line):
            body_of = indent_of(line)
        else:
            kept.append(line)
    return kept


def clean_rst(text: str) -> str:
    """Return reStructuredText with its prose, code and headings, without its plumbing."""
    lines = [line.rstrip() for line in text.expandtabs(8).splitlines()]
    lines = [PLAIN_DIRECTIVE.sub(r"\1\2 ", line) for line in drop_directives(lines)]
    return squeeze(clean_inline("\n".join(lines)))


def clean_python(text: str) -> str:
    """Return Python source without trailing blanks and without lines too long to be written by hand."""
    lines = [line.rstrip() for line in text.expandtabs(8).splitlines()]
    return squeeze("\n".join(line for line in lines if len(line) <= 240))


def squeeze(text: str) -> str:
    """Allow at most two blank lines in a row; end with one newline."""
    return re.sub(r"\n{4,}", "\n\n\n", text).strip("\n") + "\n"
