"""The report in a real browser: complete without a network, readable in light, in dark and at a phone's width."""

import json
import re
import shutil

import pytest
from equivalence import jobs
from golden import sluice_run

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium here")

ON_DISK = {"params": "disk", "gradients": "disk", "optimizer": "disk"}
PHONE, DESK = 390, 1200
MARKUP = "<!--<b>&amp;<script>"
LEAST_CONTRAST = 4.5  # WCAG 2.2, 1.4.3 (AA)
CONTRASTS = """() => {
  const channel = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => 0.2126 * channel(rgb[0]) + 0.7152 * channel(rgb[1]) + 0.0722 * channel(rgb[2]);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parts(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const node of document.querySelectorAll("h1,h2,h3,p,dt,dd,small,th,td,pre,summary,text")) {
    if (!node.textContent.trim() || !node.getClientRects().length) continue;
    const style = getComputedStyle(node), colour = node.tagName === "text" ? style.fill : style.color;
    const a = light(parts(colour)), b = light(ground(node));
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.tagName + ": " + node.textContent.trim().slice(0, 40)]);
  }
  return found;
}"""


class Page:
    """A report as a browser without a network shows it; what it complained of, and what it asked for."""

    def __init__(self, browser, file, scheme="light", width=DESK):
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        self.page = self.context.new_page()
        self.complaints, self.requests = [], []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(f"file://{file}")
        self.page.wait_for_function("document.documentElement.dataset.ready === 'yes'", timeout=60_000)
        assert self.complaints == []
        assert self.requests == [f"file://{file}"], "it must need nothing but itself"

    def text(self, selector):
        return self.page.inner_text(selector)

    def marks(self, chart):
        """Bars, points and lines that are drawn in it."""
        return self.page.locator(f"#{chart} .bars .point path, #{chart} .scatterlayer path").count()

    def worst_contrast(self):
        return min(self.page.evaluate(CONTRASTS))

    def rows(self, table):
        lines = self.page.locator(f"#{table} tbody tr").all()
        return [[cell.inner_text() for cell in line.locator("td").all()] for line in lines]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(workshop, tmp_path_factory):
    """Of a job whose folder's name would be markup if it were not text."""
    directory = tmp_path_factory.mktemp("report") / MARKUP
    job = jobs.job_of(workshop, jobs.TINY, "lora", "bf16", device="emulated", output_dir=str(directory / "out"),
                      offload={**ON_DISK, "nvme_path": [str(directory / "swap")]})
    file = directory.parent / "report.html"
    done = sluice_run.sluice("profile", sluice_run.write_job(directory / "job.yaml", job), "--steps", 3, "--json",
                             "--report", file)
    assert done.returncode == 0, done.stderr
    return file, json.loads(done.stdout)


@pytest.fixture(scope="module")
def study(workshop, tmp_path_factory):
    directory = tmp_path_factory.mktemp("study_report")
    sluice_run.write_job(directory / "job.yaml", jobs.job_of(workshop, jobs.TINY, "lora", "bf16"))
    file = sluice_run.write_job(directory / "study.yaml", {
        "title": "A < B", "base": "job.yaml", "output_dir": str(directory / "results"), "steps": 1,
        "grid": {"micro_batch_size": [1, 2], "offload.max_cpu": ["4GiB", "64MiB"]},
        "published": [{"what": "theirs", "tokens_per_second": 628, "source": "a paper"}]})
    done = sluice_run.sluice("profile", file)
    assert done.returncode == 0, done.stderr
    return directory / "results" / "report.html", json.loads((directory / "results" / "study.json").read_text())


def test_every_picture_is_drawn_and_the_words_are_the_profiles(browser, report):
    file, found = report
    page = Page(browser, file)
    for chart in ("timeline-measured", "timeline-simulated", "lanes-chart", "blocks-chart", "memory-host", "memory-device",
                  "memory-disk", "loss-chart", "rate-chart"):
        assert page.marks(chart) > 0, chart
    assert page.marks("timeline-measured") == len(found["measured"]["spans"])
    lanes = [row[0] for row in page.rows("lanes-table")]
    assert lanes == ["compute", "h2d", "d2h", "read", "write", "optim"]
    assert page.text("#plan-words").strip() == found["plan"]["plan_yaml"].strip()
    assert "not measured" in page.text("#tiles") and "tokens/s" in page.text("#tiles")
    assert MARKUP in page.text("#subtitle"), "what is text must stay text"


def test_a_study_shows_its_cells_and_the_picked_ones_profile(browser, study):
    file, found = study
    page = Page(browser, file)
    assert page.text("h1") == "A < B"
    states = [row[2] for row in page.rows("study-table")]
    assert states == [cell["status"] for cell in found["cells"]] == ["measured", "skipped"] * 2
    assert "max_cpu" in page.rows("study-table")[1][-1]
    assert page.marks("study-chart") >= 2 * 3  # measured, planned, bound
    row, = page.rows("published-table")
    assert row[1] == "628 tokens/s" and re.match(r"measured: \d+ to \d+ tokens/s in 2 cells", row[2])
    shown = page.page.locator("#cell option").all_inner_texts()
    assert len(shown) == 2
    before = page.text("#tiles")
    other = next(i for i in range(2) if not page.page.locator("#cell option").nth(i).evaluate("option => option.selected"))
    page.page.select_option("#cell", index=other)
    assert page.text("#tiles") != before and page.marks("timeline-measured") > 0
    assert page.complaints == []


@pytest.mark.parametrize("width", (PHONE, DESK))
@pytest.mark.parametrize("scheme", ("light", "dark"))
@pytest.mark.parametrize("which", ("report", "study"))
def test_it_is_readable_in_light_and_dark_on_a_desk_and_on_a_phone(request, browser, which, scheme, width):
    page = Page(browser, request.getfixturevalue(which)[0], scheme, width)
    ratio, where = page.worst_contrast()
    assert ratio >= LEAST_CONTRAST, (ratio, where)
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width, "the page itself must not scroll sideways"
    boxes = [page.page.locator(f"#{chart}").bounding_box() for chart in ("timeline-measured", "lanes-chart")]
    assert all(box["width"] > 0.8 * min(width, 1100) and box["x"] + box["width"] <= width for box in boxes)
    ground = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")


def test_it_follows_the_system_when_that_turns_dark(browser, report):
    page = Page(browser, report[0], "light")
    page.page.emulate_media(color_scheme="dark")
    page.page.wait_for_timeout(300)
    assert page.worst_contrast()[0] >= LEAST_CONTRAST


def test_without_its_page_the_report_is_refused_before_anything_runs_for_hours(workshop, tmp_path, monkeypatch):
    monkeypatch.setenv("SLUICE_REPORT_DIR", str(tmp_path / "nowhere"))
    job = sluice_run.write_job(tmp_path / "job.yaml", jobs.job_of(workshop, jobs.TINY, "lora", "bf16"))
    done = sluice_run.sluice("profile", job, "--report", tmp_path / "report.html")
    assert done.returncode == 2 and "the report's page is not there" in done.stderr and done.stdout == ""
