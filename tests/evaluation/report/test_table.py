"""Summaries with known answers, and what is written from them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from concept_conductor.evaluation.benchmark.benchmark import Benchmark
from concept_conductor.evaluation.benchmark.jobs import chosen_methods, plan
from concept_conductor.evaluation.benchmark.results import ResultsFolder
from concept_conductor.evaluation.benchmark.runner import LocalRunner, run
from concept_conductor.evaluation.evaluate import Evaluation
from concept_conductor.evaluation.report import plots
from concept_conductor.evaluation.report.table import (
    bootstrap,
    frame,
    in_markdown,
    latex,
    markdown,
    metric_columns,
    summary,
    write_summary,
)
from concept_conductor.io.printable import one_line

pandas = pytest.importorskip("pandas")
TITLES = {"full": "full method", "none": "nothing & all"}


def rows():
    """Ten prompts, two seeds: the second method is worse by 0.2 at every prompt, whatever the prompt."""
    for prompt in range(10):
        for seed in (0, 1):
            for method, worse in (("full", 0.0), ("none", 0.2)):
                yield {
                    "key": f"{prompt}{seed}{method}",
                    "method": method,
                    "combination": "pair",
                    "prompt": str(prompt),
                    "seed": seed,
                    "seconds": 1.0,
                    "design": prompt / 10 - worse + (0.01 if seed else -0.01),
                    "omission": worse,
                    "design_concepts": "{}",
                    "leakage": None if method == "full" else 1.0,
                }


def test_means_intervals_and_paired_differences() -> None:
    table = summary(frame(rows())).set_index(["method", "metric"])
    full, other = table.loc[("full", "design")], table.loc[("none", "design")]
    assert full["mean"] == pytest.approx(0.45)
    assert (full["images"], full["prompts"]) == (20, 10)
    assert full["low"] < 0.45 - 0.1 and full["high"] > 0.45 + 0.1  # prompts differ much
    assert np.isnan(full["difference"])
    assert other["difference"] == pytest.approx(-0.2)
    assert other["difference_low"] == pytest.approx(-0.2)  # but the gap is the same at each
    assert other["difference_high"] == pytest.approx(-0.2)
    assert np.isnan(table.loc[("full", "leakage")]["mean"])
    assert np.isnan(table.loc[("none", "leakage")]["difference"])
    assert metric_columns(frame(rows())) == ["design", "omission", "leakage"]


def test_the_interval_is_the_normal_one_for_many_values() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    low, high = bootstrap(values)
    error = 1.96 * values.std() / 20
    assert (low, high) == (
        pytest.approx(values.mean() - error, abs=0.03),
        pytest.approx(values.mean() + error, abs=0.03),
    )
    assert bootstrap(values) == (pytest.approx(low), pytest.approx(high))


def test_one_prompt_has_no_interval() -> None:
    table = summary(frame(row for row in rows() if row["prompt"] == "3"))
    text = markdown(table, TITLES)
    assert "| full method | 0.300 | 0.000 | – |" in text
    assert "| nothing & all | 0.100 | 0.200 | 1.000 |" in text
    assert "| nothing & all | -0.200 | 0.200 |" in text
    assert "nan" not in text + latex(table, TITLES)


def test_tables_as_text() -> None:
    table = summary(frame(rows()))
    text, tex = markdown(table, TITLES), latex(table, TITLES)
    assert "| method | design ↑ | omission ↓ | leakage ↓ |" in text
    assert "-0.200 [-0.200, -0.200]" in text
    assert r"nothing \& all" in tex
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 2


def test_peoples_titles_are_text_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["$x_{$", "$5 and $9", "bell \x07", "a | b", "my [/b] method", r"\alpha ^~# 50%", "<b>&", "犬", "a\nb"]
    titles = {str(number): name for number, name in enumerate(names)}
    table = summary(frame({**row, "method": method} for row in rows() if row["method"] == "full" for method in titles))
    monkeypatch.setattr(plots, "THEMES", {"light": plots.THEMES["light"]})
    drawn = plots.draw(table, titles)
    texts = [node.text for node in ElementTree.fromstring(drawn["means-light.svg"]).iter()]
    assert set(map(one_line, names)) <= set(texts)
    head, rule, *lines = (line for line in markdown(table, titles).splitlines() if line.startswith("|"))
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in (head, rule, *lines)} == {len(head.split("|")) - 1}
    assert [line.split(" | ")[0] for line in lines if "a \\|" not in line] == [
        f"| {in_markdown(name)}" for name in names if "|" not in name
    ]
    assert "\x07" not in latex(table, titles)


def test_titles_in_latex_and_markdown() -> None:
    table = summary(frame(row for row in rows() if row["prompt"] == "3"))
    titles = {"full": r"a_b & 5% #1 $x$ {y} ~ ^ \z", "none": "two\nlines"}
    tex = latex(table, titles)
    assert r"a\_b \& 5\% \#1 \$x\$ \{y\} \textasciitilde \space \textasciicircum \space \textbackslash z & 0.300" in tex
    assert r"design $\uparrow$" in tex
    assert r"| a_b & 5% #1 $x$ {y} ~ ^ \\z | 0.300 |" in markdown(table, titles)
    assert r"| two\\nlines | 0.100 |" in markdown(table, titles)
    assert in_markdown("*x* `y` _z_ a_b [t](u) <i>") == r"\*x\* \`y\` \_z\_ a_b [t\](u) \<i>"


def test_a_spreadsheet_computes_nothing(tmp_path: Path) -> None:
    table = summary(frame({**row, "method": row["method"].replace("none", "=1+1")} for row in rows()))
    write_summary(table, {}, tmp_path)
    assert "\n'=1+1,design," in (tmp_path / "summary.csv").read_text()


def test_an_evaluation_from_images_to_the_page(benchmark_file: Path, tmp_path: Path) -> None:
    benchmark_file.write_text(benchmark_file.read_text().replace("on the beach", "</script><b>"))
    benchmark = Benchmark.load(benchmark_file)
    folder = ResultsFolder.open(tmp_path / "results", benchmark)
    jobs = plan(benchmark, chosen_methods(benchmark), folder.layouts)[:4]
    run(folder, jobs, LocalRunner(), lambda job: None)
    folder.write_manifest(benchmark, jobs, "finished")
    evaluation = Evaluation(benchmark, folder, jobs)
    (first, *_) = evaluation.items()
    assert [concept.class_words for concept in first.concepts] == ["dog", "cat"]
    results = frame(evaluation._row(job, {"image": "-", "clip_t": n / 10}) for n, job in enumerate(jobs))
    written = evaluation.write(results)
    assert all(file.stat().st_size > 100 for file in written)
    again = pandas.read_parquet(folder.path / "results.parquet")
    assert again["clip_t"].tolist() == [0.0, 0.1, 0.2, 0.3]
    assert again["image"].tolist() == [f"images/{job.key}.png" for job in jobs]
    page = written[-1].read_text()
    assert page.count("</script>") == 2  # none that came from a name
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert [image["scores"]["clip_t"] for image in data["images"]] == [0.0, 0.1, 0.2, 0.3]
    assert data["images"][0]["text"] == "A dog and a cat </script><b>."
    assert len(data["images"][0]["masks"]) == 2
    assert set(data["references"]) == {"chow", "siberian"}
    assert not re.search(r"(src|href)=[\"']https?:", page)  # nothing is fetched from anywhere


def test_axes_of_plots_can_be_compared() -> None:
    values = np.array([[0.3, np.nan, np.nan]])
    assert plots._limits(values, share=True, zero=False) == plots._limits(values + 0.5, share=True, zero=False)
    low, high = plots._limits(values, share=False, zero=False)  # one prompt: no interval
    assert (low, high) == (pytest.approx(0.2), pytest.approx(0.4))
    low, high = plots._limits(np.array([[-0.4, -0.5, -0.1]]), share=True, zero=True)
    assert low == pytest.approx(-high) and low < -0.5
