"""Pages: what comes from people is text in them, wherever it stands."""

from __future__ import annotations

import json

import pytest
from jinja2 import UndefinedError

from concept_conductor.io.html import embedded_json, render

EVIL = "</script><b onclick='x'>\x1b[2J\u202e {{ 1 }} &amp; $x$ \udce9"


def test_text_is_text() -> None:
    page = render('<h1 title="{{ text }}">{{ text }}</h1>{% if text %}<i>{{ 3 }}</i>{% endif %}', text=EVIL)
    shown = "&lt;/script&gt;&lt;b onclick=&#39;x&#39;&gt;\\x1b[2J\\u202e {{ 1 }} &amp;amp; $x$ \\udce9"
    assert page == f'<h1 title="{shown}">{shown}</h1><i>3</i>'
    page.encode()


def test_data_stands_in_a_script_as_it_is() -> None:
    data = {"name\x07": [EVIL, 1.5, None], "lines": "a\nb"}
    page = render("<script>{{ data }}</script>", data=embedded_json(data))
    assert page.count("</script>") == 1 and page.isprintable()
    found = json.loads(page.removeprefix("<script>").removesuffix("</script>"))
    assert found["lines"] == "a\nb"
    assert found["name\\x07"][0] == EVIL.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e").replace(
        "\udce9", "\\udce9"
    )
    with pytest.raises(ValueError, match="Out of range float"):
        embedded_json(float("nan"))


def test_a_template_names_what_it_needs() -> None:
    with pytest.raises(UndefinedError):
        render("{{ missing }}")
