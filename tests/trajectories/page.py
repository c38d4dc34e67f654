"""A report's page as a reader of HTML sees it."""

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """Checks that tags are balanced and collects text and references."""

    VOID = frozenset({"meta", "br", "link", "img", "hr"})

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.references, self.ids, self.tags = [], [], [], [], set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self._attributes(attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self._attributes(attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def _attributes(self, attrs):
        for key, value in attrs:
            if key in ("src", "href", "xlink:href", "data", "action"):
                self.references.append(value)
            if key == "id":
                self.ids.append(value)

    @property
    def words(self):
        return re.sub(r"\s+", " ", " ".join(self.text))
