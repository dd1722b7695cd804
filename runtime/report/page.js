"use strict";
// Draws one profile, or a study and the profile of the cell that is picked, from the JSON in the page.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const LANES = ["compute", "h2d", "d2h", "read", "write", "optim"];
  const TIERS = ["device", "host", "disk"];
  // Of middling lightness: they stand out from a white page and from a dark one.
  const COLOURS = ["#3f83d6", "#2a9d7f", "#d98c1f", "#cf5a4a", "#9a6bd0", "#7f8c9a", "#c46a9e", "#7a9a2e", "#2f9fb5"];
  const OF_LANE = Object.fromEntries(LANES.map((lane, i) => [lane, COLOURS[i]]));
  OF_LANE.handover = COLOURS[6];
  const OF_TAG = Object.fromEntries(
    ["weights", "states", "gradients", "activations", "boundaries", "workspace", "staging"].map((t, i) => [t, COLOURS[i]]));

  // --- numbers for people ---------------------------------------------------------------------------------------
  const digits = (x, n = 3) => Number(x.toPrecision(n)).toLocaleString("en", { maximumFractionDigits: 6 });
  const scaled = (x, step, units) => {
    let i = 0;
    while (Math.abs(x) >= step && i + 1 < units.length) { x /= step; ++i; }
    return digits(x) + " " + units[i];
  };
  const bytes = (n) => scaled(n, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]);
  const byteRate = (n) => scaled(n, 1000, ["B/s", "kB/s", "MB/s", "GB/s", "TB/s"]);
  const flopRate = (n) => scaled(n, 1000, ["FLOP/s", "kFLOP/s", "MFLOP/s", "GFLOP/s", "TFLOP/s"]);
  const seconds = (s) =>
    s >= 3600 ? digits(s / 3600) + " h" : s >= 60 ? digits(s / 60) + " min" : s >= 1 ? digits(s) + " s"
      : s >= 1e-3 ? digits(s * 1e3) + " ms" : digits(s * 1e6) + " µs";
  const rate = (lane) =>
    lane.flops > 0 ? flopRate(lane.flops_per_second) : lane.bytes > 0 ? byteRate(lane.bytes_per_second) : "–";
  const baseName = (path) => path.split("/").filter(Boolean).pop() || path;

  // --- the page's pieces: text is set as text, never as markup --------------------------------------------------
  const element = (name, text, className) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };
  // `columns`: [title, value of a row, class: "words" or "long" where it is no number].
  const table = (id, columns, rows, rowClass = () => "") => {
    const head = element("tr"), body = element("tbody");
    for (const [title, , kind] of columns) head.append(element("th", title, kind));
    for (const row of rows) {
      const line = element("tr", undefined, rowClass(row));
      for (const [, value, kind] of columns) line.append(element("td", value(row) ?? "–", kind));
      body.append(line);
    }
    const whole = element("thead");
    whole.append(head);
    byId(id).replaceChildren(whole, body);
  };

  // --- charts ---------------------------------------------------------------------------------------------------
  const drawn = new Map();  // id -> [traces, layout], to be drawn again in other colours
  const colourOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const themed = (layout) => {
    const narrow = window.innerWidth < 600, axis = { gridcolor: colourOf("--grid"), linecolor: colourOf("--line"),
      zerolinecolor: colourOf("--line"), automargin: true };
    const themedLayout = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", barmode: "stack", dragmode: narrow ? false : "zoom",
      font: { color: colourOf("--text"), size: narrow ? 11 : 13, family: "inherit" },
      margin: { l: 8, r: 8, t: 8, b: 8, pad: 2 }, hoverlabel: { align: "left" },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)", traceorder: "normal" }, ...layout };
    for (const key of ["xaxis", "yaxis"]) themedLayout[key] = { ...axis, ...(layout[key] || {}) };
    return themedLayout;
  };
  const config = { responsive: true, displaylogo: false, displayModeBar: false };
  const draw = (id, traces, layout) => {
    drawn.set(id, [traces, layout]);
    Plotly.react(byId(id), traces, themed(layout), config);
  };
  const drawAgain = () => drawn.forEach(([traces, layout], id) => byId(id) && draw(id, traces, layout));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAgain);
  window.matchMedia("(max-width: 599px)").addEventListener("change", drawAgain);

  const timeline = (id, picture) => {
    const kinds = new Map();
    for (const [lane, begin, end, what] of picture.spans) {
      const kind = what.split(" ")[0].replaceAll("_", " ");
      if (!kinds.has(kind)) kinds.set(kind, { base: [], x: [], y: [], text: [] });
      const of = kinds.get(kind);
      of.base.push(begin / 1e6); of.x.push((end - begin) / 1e6); of.y.push(lane);
      of.text.push(`${what}<br>${seconds((end - begin) / 1e6)}, from ${seconds(begin / 1e6)}`);
    }
    const lanes = LANES.filter((lane) => picture.spans.some((span) => span[0] === lane));
    const traces = [...kinds].map(([kind, of], i) => ({ type: "bar", orientation: "h", name: kind, ...of, width: 0.8,
      hovertemplate: "%{text}<extra></extra>", textposition: "none", marker: { color: COLOURS[i % COLOURS.length] } }));
    draw(id, traces, { height: 90 + 34 * lanes.length + 22 * Math.ceil(kinds.size / 4), barmode: "overlay",
      xaxis: { title: { text: "seconds" }, range: [0, picture.seconds] },
      yaxis: { categoryorder: "array", categoryarray: [...lanes].reverse() } });
  };

  const stalls = (lane) => Object.entries(lane.stalled_on || {}).sort((a, b) => b[1] - a[1]);
  const lanesOf = (lanes) => LANES.filter((lane) => lanes[lane] && lanes[lane].busy_seconds > 0);

  const laneChart = (mean) => {
    const lanes = lanesOf(mean.lanes).reverse();
    const part = (name, colour, value, pattern) => ({ type: "bar", orientation: "h", name, y: lanes, x: lanes.map(value),
      marker: { color: colour, pattern: { shape: pattern || "" } }, hovertemplate: `${name}: %{x:.4~g} s<extra>%{y}</extra>` });
    const causes = [...LANES, "handover"].filter((on) => lanes.some((l) => mean.lanes[l].stalled_on?.[on] > 0));
    draw("lanes-chart", [
      part("busy", COLOURS[0], (l) => mean.lanes[l].busy_seconds),
      ...causes.map((on) => part(`stalled on ${on}`, OF_LANE[on], (l) => mean.lanes[l].stalled_on?.[on] || 0, "/")),
      part("done", "rgba(127,140,154,0.35)", (l) => mean.lanes[l].done_seconds || 0),
    ], { height: 110 + 34 * lanes.length + 11 * causes.length, xaxis: { title: { text: "seconds" } } });
    table("lanes-table", [
      ["lane", (l) => l], ["busy", (l) => seconds(mean.lanes[l].busy_seconds)],
      ["stalled", (l) => seconds(mean.lanes[l].stalled_seconds)], ["done", (l) => seconds(mean.lanes[l].done_seconds || 0)],
      ["moved", (l) => mean.lanes[l].bytes > 0 ? bytes(mean.lanes[l].bytes) : "–"], ["rate", (l) => rate(mean.lanes[l])],
      ["stalled on", (l) => stalls(mean.lanes[l]).map(([on, s]) => `${on} ${seconds(s)}`).join(", ") || "nothing", "long"],
    ], [...lanes].reverse());
  };

  const blockChart = (mean) => {
    const blocks = mean.blocks.filter((block) => block.lanes.compute);
    const part = (name, colour, value, pattern) => ({ type: "bar", name, x: blocks.map((b) => b.name),
      y: blocks.map((b) => value(b.lanes.compute)), marker: { color: colour, pattern: { shape: pattern || "" } },
      hovertemplate: `${name}: %{y:.4~g} s<extra>%{x}</extra>` });
    const causes = [...LANES, "handover"].filter((on) => blocks.some((b) => b.lanes.compute.stalled_on?.[on] > 0));
    draw("blocks-chart", [part("busy", COLOURS[0], (l) => l.busy_seconds),
      ...causes.map((on) => part(`stalled on ${on}`, OF_LANE[on], (l) => l.stalled_on?.[on] || 0, "/"))],
    { height: 300, yaxis: { title: { text: "seconds" } } });
    const rows = mean.blocks.flatMap((b) => lanesOf(b.lanes).map((lane) => [b.name, lane, b.lanes[lane]]));
    table("blocks-table", [
      ["block", (r) => r[0]], ["lane", (r) => r[1]], ["busy", (r) => seconds(r[2].busy_seconds)],
      ["stalled", (r) => seconds(r[2].stalled_seconds)], ["most on", (r) => stalls(r[2])[0]?.[0] ?? "–"],
      ["moved", (r) => r[2].bytes > 0 ? bytes(r[2].bytes) : "–"], ["rate", (r) => rate(r[2])],
    ], rows);
  };

  const memoryCharts = (profile) => {
    const picture = profile.measured, gib = 2 ** 30, holder = byId("memory");
    holder.replaceChildren();
    for (const tier of TIERS.filter((t) => picture.memory?.[t])) {
      const id = `memory-${tier}`, chart = element("div", undefined, "chart");
      chart.id = id;
      chart.setAttribute("role", "img");
      chart.setAttribute("aria-label", `memory of tier ${tier} over the step, by what it is for`);
      holder.append(element("h3", tier[0].toUpperCase() + tier.slice(1)), chart);
      const traces = Object.entries(picture.memory[tier]).map(([tag, values]) => ({ type: "scatter", mode: "lines", name: tag,
        stackgroup: "one", line: { width: 0.5, shape: "hv", color: OF_TAG[tag] }, fillcolor: OF_TAG[tag],
        x: values.map((_, i) => (picture.seconds * (i + 0.5)) / values.length), y: values.map((v) => v / gib),
        hovertemplate: `${tag}: %{y:.4~g} GiB<extra></extra>` }));
      draw(id, traces, { height: 230, hovermode: "x unified",
        xaxis: { title: { text: "seconds" }, range: [0, picture.seconds] },
        yaxis: { title: { text: "GiB" }, rangemode: "tozero" } });
    }
    const peaks = profile.plan.peak_bytes, tags = Object.keys(OF_TAG).filter((tag) => TIERS.some((t) => peaks[t][tag] > 0));
    const rows = [...tags, "total", "cap"];
    table("memory-table", [["peak, planned", (r) => r],
      ...TIERS.map((t) => [t, (r) => (peaks[t][r] > 0 ? bytes(peaks[t][r]) : "–")])], rows);
  };

  const logCharts = (profile) => {
    const own = profile.log.length > 0, log = own ? profile.log : profile.steps;
    byId("log-words").textContent = own
      ? `Of the run whose log is in the job's output_dir: ${log.length} steps.`
      : "Of the profiled steps; the job's output_dir holds no log of a run.";
    const line = (id, name, value) => draw(id,
      [{ type: "scatter", mode: log.length > 40 ? "lines" : "lines+markers", name, x: log.map((l) => l.step), y: log.map(value),
        line: { color: COLOURS[0] } }],
      { height: 220, showlegend: false, xaxis: { title: { text: "step" } },
        yaxis: { title: { text: name }, exponentformat: "e" } });
    line("loss-chart", "loss", (l) => l.loss);
    line("rate-chart", "learning rate", (l) => l.learning_rate);
  };

  const tiles = (profile) => {
    const s = profile.summary, energy = profile.energy, disk = profile.disk;
    const joules = (use) => use.joules_per_token === null ? ["not measured", use.not_measured]
      : [digits(use.joules_per_token) + " J/token", digits(use.joules) + " J in all"];
    const wear = disk.rated_endurance_bytes
      ? digits((100 * disk.job_write_bytes) / disk.rated_endurance_bytes) + "% of what the drives are rated for"
      : "the drives' rating is not known";
    const all = [
      ["throughput", digits(s.tokens_per_second, 4) + " tokens/s", seconds(s.seconds_per_10k_tokens) + " per 10,000 tokens"],
      ["a step", seconds(s.step_seconds), `bound ${seconds(s.bound_seconds)}`],
      ["of the bound", digits(s.percent_of_bound) + "%", `${s.binding_lane} binds`],
      ["device, in use at most", bytes(s.device_peak_bytes)],
      ["host, in use at most", bytes(s.host_peak_bytes), `the process: ${bytes(s.process_peak_bytes)}`],
      ["disk, a step", `${bytes(disk.read_bytes_per_step)} read`, `${bytes(disk.write_bytes_per_step)} written`],
      ["drive wear, whole job", bytes(disk.job_write_bytes), wear],
      ["energy, GPU", ...joules(energy.gpu)], ["energy, CPU", ...joules(energy.cpu)],
    ];
    byId("tiles").replaceChildren(...all.map(([name, value, small]) => {
      const tile = element("div"), shown = element("dd", value);
      if (small) shown.append(element("small", small));
      tile.append(element("dt", name), shown);
      return tile;
    }));
  };

  const showPlan = (plan) => {
    byId("plan").hidden = !plan;
    if (plan) byId("plan-words").textContent = plan.plan_yaml;
  };
  const showProfile = (profile) => {
    byId("profile").hidden = false;  // first: charts take their width from it
    tiles(profile);
    timeline("timeline-measured", profile.measured);
    timeline("timeline-simulated", profile.simulated);
    laneChart(profile.mean_step);
    blockChart(profile.mean_step);
    memoryCharts(profile);
    logCharts(profile);
    showPlan(profile.plan);
  };

  // --- a study --------------------------------------------------------------------------------------------------
  const nameOf = (cell) => Object.entries(cell.settings).map(([axis, value]) => `${axis}=${value}`).join(", ");
  // Without the axes' names where the values alone tell cells apart.
  const shortNames = (cells) => {
    const names = cells.map((cell) => Object.values(cell.settings).join(" "));
    return new Set(names).size === names.length ? names : cells.map(nameOf);
  };
  const STATES = { measured: "measured", planned: "planned, not measured", skipped: "skipped", failed: "failed" };

  const studyChart = (cells) => {
    const names = shortNames(cells), value = (get) => cells.map((cell) => get(cell) ?? null);
    const marks = (name, symbol, colour, get) => ({ type: "scatter", mode: "markers", name, y: names, x: value(get),
      marker: { symbol, size: 10, color: colour, line: { width: 2, color: colour } },
      hovertemplate: `${name}: %{x:.4~g} tokens/s<extra>%{y}</extra>` });
    const traces = [{ type: "bar", orientation: "h", name: "measured", y: names, x: value((c) => c.tokens_per_second),
      marker: { color: COLOURS[0] }, hovertemplate: "measured: %{x:.4~g} tokens/s<extra>%{y}</extra>" },
    marks("planned", "line-ns-open", COLOURS[2], (c) => c.planned_tokens_per_second),
    marks("bound", "diamond-open", COLOURS[3], (c) => c.bound_tokens_per_second)];
    draw("study-chart", traces.filter((trace) => trace.x.some((x) => x !== null)), {
      height: 120 + 24 * cells.length, xaxis: { title: { text: "tokens/s" }, rangemode: "tozero" },
      yaxis: { categoryorder: "array", categoryarray: [...names].reverse(), type: "category" }, showlegend: true });
  };

  const showCell = (cell) => {
    byId("profile").hidden = !cell.profile;
    if (cell.profile) showProfile(cell.profile);
    else showPlan(cell.plan);
  };

  const showStudy = (study) => {
    byId("study").hidden = false;
    byId("study-words").textContent = study.words;
    const number = (x) => (x === null || x === undefined ? "–" : digits(x, 4)), axes = Object.keys(study.cells[0].settings);
    studyChart(study.cells.filter((cell) => cell.status === "measured" || cell.status === "planned"));
    table("study-table", [
      ...axes.map((axis) => [axis, (c) => c.settings[axis], "words"]), ["state", (c) => STATES[c.status], "words"],
      ["tokens/s", (c) => number(c.tokens_per_second)], ["planned", (c) => number(c.planned_tokens_per_second)],
      ["bound", (c) => number(c.bound_tokens_per_second)], ["% of bound", (c) => number(c.percent_of_bound)],
      ["binds", (c) => c.binding_lane], ["s per 10k", (c) => number(c.seconds_per_10k_tokens)],
      ["device", (c) => (c.device_peak_bytes ? bytes(c.device_peak_bytes) : "–")],
      ["host", (c) => (c.host_peak_bytes ? bytes(c.host_peak_bytes) : "–")],
      ["GPU J/token", (c) => number(c.gpu_joules_per_token)], ["reason", (c) => c.reason, "long"],
    ], study.cells, (c) => (c.status === "measured" ? "" : "missing"));
    byId("published").hidden = study.published.length === 0;
    table("published-table", [
      ["what", (p) => p.what, "words"],
      ["published", (p) => (p.tokens_per_second ? number(p.tokens_per_second) + " tokens/s" : p.words), "words"],
      ["ours", (p) => p.ours, "words"], ["source", (p) => p.source, "long"],
    ], study.published);
    const shown = study.cells.filter((cell) => cell.profile || cell.plan);
    if (shown.length === 0) return;
    byId("picker").hidden = false;
    const best = (cell) => (cell.profile ? 1e12 : 0) + (cell.tokens_per_second ?? cell.planned_tokens_per_second ?? 0);
    const fastest = shown.reduce((a, b) => (best(b) > best(a) ? b : a));
    for (const cell of shown) {
      const option = element("option", nameOf(cell));
      option.selected = cell === fastest;
      byId("cell").append(option);
    }
    byId("cell").addEventListener("change", (event) => showCell(shown[event.target.selectedIndex]));
    showCell(fastest);
  };

  if (data.kind === "study") {
    byId("title").textContent = data.title;
    byId("subtitle").textContent = `${data.file}, on ${data.machine}`;
    showStudy(data);
  } else {
    byId("title").textContent = `${baseName(data.model)} on ${data.device}`;
    byId("subtitle").textContent = `${data.job}: ${data.steps.length} steps after ${data.warm_up_steps} to warm up, ` +
      `${data.micro_batches} × ${data.tokens_per_micro_batch} tokens a step; processor: ${data.host}`;
    showProfile(data);
  }
  document.title = `${byId("title").textContent} – Sluice report`;
  document.documentElement.dataset.ready = "yes";
})();
