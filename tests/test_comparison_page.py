"""A comparison's page: one file that needs nothing else, whatever is in it, and reads well in a real browser."""

from __future__ import annotations

import base64
import dataclasses
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import comparisons
import pytest
from PIL import Image

from zoo_core.comparison import assemble, page, plots, results, sheets, telling
from zoo_core.comparison.results import Comparison, Neighbours
from zoo_core.errors import UserError

HOSTILE = '<script>alert("x")</script>$\\frac{$ {{7*7}}&amp;\'" onload="x'
VOID = {"meta", "img", "br", "use", "path", "polygon"}


class Page(HTMLParser):
    """What a page holds: tags and their attributes, and its visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"{tag} repeats an attribute"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def made() -> Comparison:
    return comparisons.comparison()


@pytest.fixture(scope="module")
def folder(made: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole report on disk."""
    place = tmp_path_factory.mktemp("report")
    comparisons.draw_grids(made, place)
    page.write(made, place)
    return place


@pytest.fixture(scope="module")
def seen(folder: Path) -> Page:
    return Page((folder / page.FILE).read_text())


def rendered(found: Comparison, folder: Path) -> Page:
    return Page(page.render(found, folder))


def renamed(found: Comparison, old: str, new: str) -> Comparison:
    """One contender under another name, everywhere."""

    def other(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return type(value)(**{field.name: other(getattr(value, field.name)) for field in dataclasses.fields(value)})
        if isinstance(value, dict):
            return {other(key): other(item) for key, item in value.items()}
        if isinstance(value, list):
            return [other(item) for item in value]
        return new if value == old else value

    return other(found)


# --- one file ---


def test_the_page_loads_nothing_and_runs_nothing(seen: Page) -> None:
    assert not {"script", "link", "iframe", "object", "embed", "form"} & {tag for tag, _ in seen.tags}
    for tag, attributes in seen.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href", "srcset", "poster"):
            value = attributes.get(name) or ""
            assert value in ("", "report.json") or value.startswith(("data:image/png;base64,", "#")), (tag, value)
    (policy,) = [each["content"] for each in seen.all("meta") if each.get("http-equiv")]
    assert policy.split("; ") == [
        *("default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", "base-uri 'none'", "form-action 'none'")
    ]


def test_ids_are_unique_and_what_is_pointed_to_exists(folder: Path, seen: Page) -> None:
    ids = [attributes["id"] for _, attributes in seen.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    text = (folder / page.FILE).read_text()
    pointed = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    assert pointed and pointed <= set(ids)
    assert "@import" not in text and len(re.findall(r"url\((?!#)", text)) == 0


def test_a_report_read_from_json_makes_the_same_bytes(made: Comparison, folder: Path, tmp_path: Path) -> None:
    (tmp_path / results.FILE).write_text(results.to_json(made))
    again = page.render(results.read(tmp_path / results.FILE), folder)
    assert again == (folder / page.FILE).read_text()


def test_plots_take_their_colours_from_the_page(made: Comparison) -> None:
    svg = plots.dots(made.figures[0], made.contenders, "FD")
    assert "currentColor" in svg and "var(--series-0)" in svg and "var(--rule)" in svg
    left = set(re.findall(r"#[0-9a-f]{6}\b", re.sub(r"(url\(|href=\")#\w+", "", svg)))
    assert not left, "a colour of matplotlib's own stays, which one of the themes would not show"


# --- what it says ---


def test_the_order_is_answer_overview_flags_verdicts_and_then_the_rest(seen: Page) -> None:
    sections = [attributes["id"] for tag, attributes in seen.tags if tag in ("section", "aside")]
    assert sections == [
        *("answer", "overview", "flags", "verdicts", "contenders", "cost", "curves", "pareto", "samples", "structure"),
        *("agreement", "published", "manifest"),
    ]


def test_every_point_every_flag_and_every_command_is_there(made: Comparison, seen: Page) -> None:
    text = words(seen.text)
    for figure in made.figures:
        places = telling.decimals(figure) + 1
        for contender in made.contenders:
            for run in contender.runs:
                said = " · ".join(telling.number(value, places) for value in run.values.get(figure.name, []))
                assert said in text
        assert figure.name in text
        for verdict in figure.verdicts:
            assert verdict.reason in text
    for flag in made.flags:
        assert flag in text
    for contender in made.contenders:
        assert words(contender.command) in text
    assert words(made.command) in text and "1 of 3 diverged" in text and made.data["content"] in text
    assert "These numbers were measured otherwise" in text and "2.81" in text


def test_dot_plots_show_one_mark_for_each_set_of_samples(made: Comparison) -> None:
    svg = plots.dots(made.figures[0], made.contenders, "FD")
    colours = [f"var(--series-{index})" for index in range(len(made.contenders))]
    drawn = [len(re.findall(rf"<use [^>]*fill: {re.escape(colour)}", svg)) for colour in colours]
    assert drawn == [9, 9, 6, 9, 9]


def test_a_winner_is_named_with_its_gap_and_interval() -> None:
    found = comparisons.comparison(("low", "middle", "high"), diverged=False)
    distance = next(each for each in telling.headlines(found) if each.title == "FD")
    verdict = next(each for each in found.figures[0].verdicts if (each.first, each.second) == ("low", "middle"))
    assert distance.answer == "low wins" and "of middle, the next: lower by" in distance.details
    assert telling.number(abs(verdict.difference), 1) in distance.details
    bounds = sorted(abs(bound) for bound in (verdict.low, verdict.high))
    assert " to ".join(telling.number(bound, 1) for bound in bounds) in distance.details


def test_the_overview_has_a_row_for_each_contender_and_for_what_real_images_score(
    made: Comparison, folder: Path
) -> None:
    text = (folder / page.FILE).read_text()
    overview = re.search(r'<table class="overview">.*?</table>', text, re.DOTALL)[0]
    head, *rows = (words(re.sub("<[^>]*>", " ", row)) for row in re.findall("<tr>.*?</tr>", overview, re.DOTALL))
    main = telling.main_figures(made)
    assert head.count("is better") == len(main) == 3
    for contender, row in zip(made.contenders, rows, strict=False):
        assert row.startswith(contender.name)
        assert all(" ".join(page.cell(figure, contender.name)) in row for figure in main)
        cost = contender.cost
        assert row.endswith(f"{telling.amount(cost.images_per_second)} {telling.size(cost.peak_memory)}")
        assert ("1 of 3 diverged" in row) == (contender.name == "sagan")
    floors = " ".join(telling.number(figure.floor, telling.decimals(figure)) for figure in main)
    assert rows[len(made.contenders)] == f"real images (floor) {floors}"
    assert len(rows) == len(made.contenders) + 1 + len(made.figures[0].sanity)


def test_each_pair_is_seen_from_both_sides(made: Comparison) -> None:
    figure = made.figures[0]
    known = page.square(figure)
    assert len(known) == 2 * len(figure.verdicts)
    here, there = known["styleswin", "stylenat"], known["stylenat", "styleswin"]
    assert here.winner == there.winner == "styleswin" and here.p == there.p
    assert here.difference.startswith("−") and there.difference == here.difference.removeprefix("−")
    low, high = there.interval.strip("[]").split(", ")
    assert here.interval == f"[−{high}, −{low}]"
    turned = telling.turned(telling.turned(figure.verdicts[0]))
    assert turned == figure.verdicts[0]


@pytest.mark.parametrize(("number", "squares"), [(3, 0), (4, 7)])
def test_more_than_three_contenders_are_set_against_each_other_in_a_square(
    tmp_path: Path, number: int, squares: int
) -> None:
    found = comparisons.comparison(comparisons.NAMES[:number], diverged=False)
    shown = rendered(found, tmp_path)
    assert [each.get("class") for each in shown.all("table")].count("square") == squares
    told = [each for each in (each.get("class") for each in shown.all("td")) if each in ("n won", "n lost")]
    decided = sum(bool(telling.winner(verdict)) for figure in found.figures for verdict in figure.verdicts)
    assert len(told) == (2 * decided if squares else 0) and decided


def test_who_has_no_figure_is_said_and_stands_in_nobodys_way() -> None:
    found = comparisons.comparison(("low", "middle", "high"), seeds=5, diverged=False)
    best, *others = found.contenders
    gone = dataclasses.replace(best, runs=[dataclasses.replace(run, values={}, state="diverged") for run in best.runs])
    figures = assemble.compared([gone, *others], {}, {}, 3)
    distance = telling.headlines(dataclasses.replace(found, figures=figures))[0]
    assert distance.answer == "middle wins"
    assert distance.details.endswith("No training of low gave this figure.")


def test_names_in_the_pareto_plot_do_not_lie_on_each_other(made: Comparison) -> None:
    alike = [
        dataclasses.replace(each, cost=dataclasses.replace(each.cost, images_per_second=100.0 + index))
        for index, each in enumerate(made.contenders)
    ]
    figure = made.figures[0]
    level = dict.fromkeys(figure.summaries, dataclasses.replace(figure.summaries["styleswin"], low=None, high=None))
    crowd = plots.pareto(dataclasses.replace(figure, summaries=level), alike, "FD")
    apart = plots.pareto(figure, made.contenders, "FD")
    named = [sum(f">{plots._short(each.name, 24)}<" in svg for each in alike) for svg in (crowd, apart)]
    assert named[0] < named[1] == len(alike), "names that find no room are left to the legend"


def test_nobody_wins_who_does_not_beat_all(made: Comparison) -> None:
    distance = next(each for each in telling.headlines(made) if each.title == "FD")
    assert distance.answer == "inconclusive at the top"
    assert "styleswin and styleswin+hydra lose to nobody" in distance.details
    level = page.square(made.figures[0])["styleswin", "styleswin+hydra"]
    assert level.reason and distance.details.endswith(f"; {level.reason}."), "why, where an interval may exclude 0"
    even = comparisons.comparison(("one", "two"), seeds=1)
    assert {each.answer for each in telling.headlines(even)} == {"inconclusive"}
    assert telling.headlines(even)[0].details.startswith("The two cannot be told apart: one minus two is ")
    assert "fewer than two pairs of trainings" in telling.headlines(even)[0].details


@pytest.mark.parametrize("lower", [True, False])
def test_a_loss_names_the_other_one(made: Comparison, lower: bool) -> None:
    verdict = dataclasses.replace(made.figures[0].verdicts[0], outcome="loss")
    assert telling.winner(verdict) == verdict.second
    figure = dataclasses.replace(made.figures[0], lower_is_better=lower, verdicts=[verdict])
    assert page.rows(figure)[0].winner == verdict.second


def test_the_terminal_is_told_the_headlines_and_the_verdicts(made: Comparison) -> None:
    lines = page.summary(made)
    assert lines[0].startswith("FD: inconclusive at the top. ")
    assert any(re.search(r"styleswin – stylenat +−4\.\d +\[.+\] +0\.\d+ +styleswin wins", line) for line in lines)
    assert all(f"note: {flag}" in lines for flag in made.flags)


def test_two_figures_of_one_label_are_told_apart(made: Comparison) -> None:
    one, *_ = made.figures
    other = dataclasses.replace(one, name="fd@dinov2:32px:N=2000:train")
    third = dataclasses.replace(one, name="fd@dinov2:64px:N=2000:train")
    assert list(telling.titles([one, other]).values()) == ["FD (random-conv-v1)", "FD (dinov2)"]
    assert len(set(telling.titles([one, other, third]).values())) == 3


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (telling.amount(0.0), "–"),
        (telling.amount(1_912_345), "1.91 M"),
        (telling.amount(999_999), "1 M"),
        (telling.size(412 * 2**20), "412 MiB"),
        (telling.duration(59.6), "60 s"),
        (telling.duration(12_000), "3 h 20 min"),
        (telling.probability(0.0), "< 0.001"),
        (telling.probability(0.0496), "0.0496"),
        (telling.probability(0.0504), "0.05"),
        (telling.probability(0.04999), "0.04999"),
        (telling.number(-1.25, 1), "−1.2"),
        (telling.number(-0.04, 1), "0.0"),
        (telling.number(None, 1), "–"),
        (telling.listed(["a", "b", "c"], 2), "a, b and 1 more"),
    ],
)
def test_numbers_are_rounded_for_reading(said: str, expected: str) -> None:
    assert said == expected


def test_rates_have_three_places_however_small_one_is(made: Comparison) -> None:
    places = {telling.kind(figure.name): telling.decimals(figure) for figure in made.figures}
    assert min(row.mean for row in made.figures[-1].summaries.values()) < 0.04
    assert places["pair_excess"] == places["precision"] == 3 and places["kd"] == 4 and places["fd"] == 1


# --- pictures ---


def test_the_newest_grid_of_the_first_seed_is_shown_and_a_missing_one_is_said(
    made: Comparison, folder: Path, seen: Page
) -> None:
    pictures = seen.all("img")
    assert len(pictures) == len(made.contenders) - 1
    assert all(base64.b64decode(each["src"].partition(",")[2]).startswith(b"\x89PNG") for each in pictures)
    assert "no grid is kept of seed 0" in words(seen.text)
    assert sheets.newest(folder / made.contenders[0].runs[0].folder)[1] == 30_000


def test_of_several_stages_the_last_ones_grid_is_shown(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    for name in ("first-images-000000900.png", "second-images-000000100.png", "second-codes-images-000000200.png"):
        (tmp_path / "samples" / name).touch()
    (tmp_path / "metrics.jsonl").write_text('{"stage": "first", "step": 9}\n{"stage": "second", "step": 1}\n{"st')
    assert sheets.newest(tmp_path)[::2] == ("second", tmp_path / "samples" / "second-images-000000100.png")


def test_a_damaged_picture_is_said(made: Comparison, tmp_path: Path) -> None:
    comparisons.draw_grids(made, tmp_path)
    for picture in (tmp_path / made.contenders[0].runs[0].folder / "samples").iterdir():
        picture.write_bytes(picture.read_bytes()[:90])
    shown = sheets.sheets(made.contenders, tmp_path)
    assert not shown[0].uri and "is damaged" in shown[0].caption and shown[1].uri


def test_samples_are_shown_with_their_nearest_training_images(made: Comparison, seen: Page, tmp_path: Path) -> None:
    assert "Nearest training images" not in seen.text, "nobody looked for them"
    one = Neighbours(
        *(0, 1000, "random-conv-v1:32px", 256, 4_000),
        images=[[5, 7]] * 8,
        distances=[[1.5, 2.0]] * 8,
        of_samples=2.5,
        of_real=2.0,
        picture="measured/neighbours/one.png",
    )
    (tmp_path / "measured" / "neighbours").mkdir(parents=True)
    Image.new("RGB", (80, 30)).save(tmp_path / one.picture)
    other = dataclasses.replace(one, of_real=0.0, picture="measured/neighbours/gone.png")
    contenders = [
        dataclasses.replace(contender, neighbours=found)
        for contender, found in zip(made.contenders, (None, one, other, None, None), strict=True)
    ]
    gone = [dataclasses.replace(run, state="diverged") for run in contenders[0].runs]
    contenders[0] = dataclasses.replace(contenders[0], runs=gone)
    page_ = rendered(dataclasses.replace(made, contenders=contenders), tmp_path)
    text = words(page_.text).partition("Nearest training images")[2]
    for part in ("first 8 of the samples", "seed 1000", one.space, "4,000 of the training images", "over 256 samples"):
        assert part in text
    assert [each["alt"].partition(",")[0] for each in page_.all("img")] == [f"Samples of {contenders[1].name}"]
    for part in ("ratio 1.25, training seed 0", "ratio –, training seed 0; the picture is missing or damaged"):
        assert part in text
    assert (text.count("no training ended"), text.count("could not be had")) == (1, 2)


# --- whatever is in it ---


def test_hostile_names_are_text(made: Comparison, tmp_path: Path) -> None:
    found = renamed(made, "sagan", HOSTILE)
    hostile = dataclasses.replace(
        found,
        data={**found.data, "name": HOSTILE, HOSTILE: HOSTILE},
        manifest={HOSTILE: {HOSTILE: HOSTILE}},
        flags=[HOSTILE],
        command=HOSTILE,
        published=[dataclasses.replace(found.published[0], model=HOSTILE, source=HOSTILE)],
        figures=[dataclasses.replace(found.figures[0], label=HOSTILE, note=HOSTILE), *found.figures[1:]],
    )
    shown = rendered(hostile, tmp_path)
    assert not shown.all("script") and not [1 for _, attributes in shown.tags if "onload" in attributes]
    assert shown.text.count(HOSTILE) > 12
    assert page.summary(hostile)


def test_none_and_nothing_everywhere_are_shown_as_dashes(made: Comparison, tmp_path: Path) -> None:
    text = words(rendered(comparisons.nothing(made), tmp_path).text)
    assert "nothing could be measured" in text and "Nothing was flagged." in text
    assert "No figure was measured while these trained." in text and "No sampling throughput was measured." in text
    assert "None" not in text and "nan" not in text.lower().replace("finance", "")
    page.summary(comparisons.nothing(made))


@pytest.mark.parametrize(("names", "seeds", "samplings"), [(("alone",), 3, 3), (("a", "b"), 1, 1), (("alone",), 1, 1)])
def test_one_contender_and_one_seed_make_a_page(
    tmp_path: Path, names: tuple[str, ...], seeds: int, samplings: int
) -> None:
    found = comparisons.comparison(names, seeds, samplings, diverged=False)
    text = words(rendered(found, tmp_path).text)
    assert ("nobody to compare it with" in text) == (len(names) == 1)
    assert ("there is no pair" in text) == (len(names) == 1)
    page.summary(found)


def test_a_comparison_without_figures_makes_a_page(made: Comparison, tmp_path: Path) -> None:
    text = words(rendered(dataclasses.replace(made, figures=[], agreement=[]), tmp_path).text)
    assert "nothing was measured" in text and "No training gave a figure." in text
    assert page.summary(dataclasses.replace(made, figures=[], agreement=[], flags=[])) == []


def test_a_page_that_cannot_be_written_is_a_sentence(made: Comparison, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        page.write(made, tmp_path / "file")


# --- in a browser ---

CHECK = """
() => {
  const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
  const brush = canvas.getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => {  // whatever the notation, as the browser paints it
    brush.clearRect(0, 0, 1, 1); brush.fillStyle = colour; brush.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = brush.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
  };
  const over = (top, base) => [0, 1, 2].map((i) => top[i] * top[3] + base[i] * (1 - top[3])).concat(1);
  const light = (c) => {
    const [r, g, b] = c.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((base, top) => over(top, base), [255, 255, 255, 1]);
  };
  const faint = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = texts.nextNode(); node; node = texts.nextNode()) {
    const owner = node.parentElement;
    if (!node.data.trim() || !owner.getClientRects().length) continue;
    const style = getComputedStyle(owner), base = behind(owner);
    const ink = over(rgba(owner.closest("svg") ? style.fill : style.color), base);
    const [high, low] = [light(ink), light(base)].sort((a, b) => b - a);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < 4.5) faint.push(`${node.data.trim().slice(0, 30)}: ${contrast.toFixed(2)}`);
  }
  const wide = [...document.querySelectorAll("body *")].filter((node) =>
    !node.closest(".scroll > *") && !node.closest("svg > *") && node.getBoundingClientRect().right > innerWidth + 0.5);
  return {
    faint,
    texts: document.body.innerText.length,
    background: getComputedStyle(document.documentElement).backgroundColor,
    overflow: document.documentElement.scrollWidth - innerWidth,
    wide: wide.map((node) => node.outerHTML.slice(0, 80)),
    images: [...document.images].map((image) => image.complete && image.naturalWidth),
    touching: [...document.querySelectorAll("svg.plot")].flatMap((plot) => {
      const texts = [...plot.querySelectorAll("text")].map((text) => [text, text.getBoundingClientRect()]);
      return texts.flatMap(([one, a], order) => texts.slice(order + 1).filter(([, b]) =>
        Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3
      ).map(([other]) => `${one.textContent} / ${other.textContent}`));
    }),
    clipped: [...document.querySelectorAll("svg.plot text")].filter((text) => {
      const inner = text.getBoundingClientRect(), outer = text.closest("svg").getBoundingClientRect();
      return inner.left < outer.left - 3 || inner.right > outer.right + 3;
    }).map((text) => text.textContent),
  };
}
"""


SLOW_MACHINE = 180_000
"""Milliseconds that a browser may take to open the page where other work has the machine."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not program:
        pytest.skip("there is no chromium; on Debian, `apt-get install chromium` brings it")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def crowded(made: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine contenders with the longest names that there are, in fourteen figures."""
    place = tmp_path_factory.mktemp("crowded")
    found = renamed(made, "stylenat", "n" * 60)
    more = [
        dataclasses.replace(found.contenders[number % 5], name=f"{number}-{'contender-with-a-long-name-' * 2}")
        for number in range(4)
    ]
    figures = [
        dataclasses.replace(
            figure,
            summaries={
                **figure.summaries,
                **{each.name: list(figure.summaries.values())[index] for index, each in enumerate(more)},
            },
        )
        for figure in found.figures
    ]
    figures += [dataclasses.replace(figure, name=figure.name.replace("@", "@another-extractor-")) for figure in figures]
    all_ = [*found.contenders, *more]
    page.write(
        dataclasses.replace(found, contenders=all_, figures=figures, agreement=assemble.agreements(figures)), place
    )
    return place


def shown(browser: Any, folder: Path, **options: Any) -> tuple[Any, list[str]]:
    """The page in a tab of its own, and what the browser complained of."""
    complaints: list[str] = []
    tab = browser.new_page(**options)
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("requestfailed", lambda request: complaints.append(request.url))
    requests: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto((folder / page.FILE).as_uri(), timeout=SLOW_MACHINE)
    tab.evaluate("document.querySelectorAll('details').forEach((part) => part.open = true)")
    assert [url for url in requests if not url.startswith("data:")] == [(folder / page.FILE).as_uri()]
    return tab, complaints


@pytest.mark.parametrize(
    ("what", "width", "scheme"),
    [("folder", width, scheme) for width in (375, 768, 1280) for scheme in ("light", "dark")]
    + [("crowded", 375, "light"), ("crowded", 1280, "dark")],
)
def test_a_browser_shows_it_whole(
    browser: Any, request: pytest.FixtureRequest, what: str, width: int, scheme: str
) -> None:
    options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    tab, complaints = shown(browser, request.getfixturevalue(what), **options)
    found = tab.evaluate(CHECK)
    tab.close()
    assert not complaints
    assert found["texts"] > 3000 and (found["background"] == "rgb(252, 252, 250)") == (scheme == "light")
    assert found["overflow"] <= 0 and not found["wide"], "the page is wider than the screen"
    assert all(found["images"]) and len(found["images"]) == (4 if what == "folder" else 0)
    assert not found["faint"], "text that is hard to read"
    assert not found["clipped"], "text of a plot runs out of it"
    assert not found["touching"], "texts of a plot lie on each other"


@pytest.mark.parametrize("what", ["folder", "crowded"])
def test_paper_holds_it_whole_with_closed_parts_open(browser: Any, request: pytest.FixtureRequest, what: str) -> None:
    """A4 less its margins is 703 px wide; in dark rooms too paper is white."""
    folder = request.getfixturevalue(what)
    tab = browser.new_page(viewport={"width": 703, "height": 1000}, color_scheme="dark")
    tab.goto((folder / page.FILE).as_uri(), timeout=SLOW_MACHINE)
    tab.emulate_media(media="print")
    cut = """() => [...document.querySelectorAll("table, pre, svg, img")]
        .filter((node) => node.getBoundingClientRect().right > innerWidth + 1)
        .map((node) => node.outerHTML.slice(0, 200))"""
    assert not tab.evaluate(cut)
    assert tab.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.evaluate("[...document.querySelectorAll('details')].every((part) => part.scrollHeight > 60)")
    printed = tab.pdf(prefer_css_page_size=True)
    tab.close()
    assert printed.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", printed)) > 4
