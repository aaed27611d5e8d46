"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const figures = [...document.querySelectorAll("figure[data-chart]")];
  const root = document.documentElement;
  const off = new Set();
  const near = new Set();
  const drawn = new Set();
  const DASHES = ["solid", "9px,4px", "2.5px,3px", "9px,3px,2.5px,3px", "14px,4px",
    "14px,3px,2.5px,3px", "5px,2.5px"];
  const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x"];
  const steps = [...new Set(charts.flatMap((chart) => chart.steps))].sort((a, b) => a - b);
  const slider = document.getElementById("step");
  const now = document.getElementById("now");
  let at = steps.length - 1;

  // Names come from outside: plotly must read neither markup nor fields into them.
  const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;").replaceAll("%{", "% {");
  const tone = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const color = (place) => tone(place === null ? "--soft" : `--c${place}`);
  const faint = (hex, share) => {
    const parts = [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
    return `rgba(${parts.join(",")},${share})`;
  };
  const short = (value) => {
    if (value === null || value === undefined) return "n/a";
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e6)) return minus(value.toExponential(1));
    return minus(String(Number(value.toPrecision(3))));
  };
  const minus = (text) => text.replace("-", "\u2212");
  const seen = (curve) => curve.keys.every((key) => !off.has(key));
  // The last step of a chart that is not after the one of the slider.
  const placeOf = (chart) => {
    let place = 0;
    chart.steps.forEach((step, index) => { if (step <= steps[at]) place = index; });
    return place;
  };

  function curves(chart) {
    const traces = [];
    const place = placeOf(chart);
    // Many bands on top of each other would hide the curves.
    const lines = chart.series.filter((one) => one.low && seen(one)).length;
    const depth = Math.max(0.05, Math.min(0.18, 0.6 / lines));
    for (const one of chart.series) {
      if (!seen(one)) continue;
      const ink = color(one.color);
      const x = one.x || chart.steps;
      if (one.low) {
        const edge = { x, mode: "lines", line: { width: 0 }, hoverinfo: "skip", type: "scatter",
          showlegend: false };
        // A gap in a filled area would be bridged.
        const known = one.low.map((low, i) => low !== null && one.high[i] !== null);
        const only = (values) => values.filter((_, i) => known[i]);
        // There is no 0 on a logarithmic axis: the band goes to the axis' end.
        const end = chart.log && chart.range ? 10 ** chart.range[0] : -Infinity;
        const low = only(one.low).map((value) => Math.max(value, end));
        traces.push({ ...edge, x: only(x), y: only(one.high) },
          { ...edge, x: only(x), y: low, fill: "tonexty", fillcolor: faint(ink, depth) });
      }
      const thin = one.role === "thin";
      const fit = one.role === "fit";
      const middle = chart.series.some((other) => other.role === "thin") && !thin;
      const half = one.low && one.low.map((low, i) => low === null ? "" :
        ` ± ${short((one.high[i] - low) / 2)}`);
      traces.push({
        x, y: one.y, type: "scatter", mode: one.role === "trail" ? "lines+markers" : "lines",
        name: plain(one.name), text: half || undefined,
        line: { color: thin ? faint(ink, 0.35) : ink, width: fit ? 1.4 : thin ? 1 : middle ? 3 : 2.2,
          dash: fit ? "dot" : DASHES[one.dash] },
        marker: { size: 4 },
        hoverinfo: fit || (thin && chart.told) ? "skip" : undefined,
        hovertemplate: fit || (thin && chart.told) ? undefined : one.role === "trail" ?
          "forget score %{x:.3g}, utility %{y:.3g}<extra>" + plain(one.short) + "</extra>" :
          `%{y:.4g}${half ? "%{text}" : ""}<extra>${plain(one.short)}</extra>`,
      });
      if (one.best !== undefined) {
        traces.push({ x: [x[one.best]], y: [one.y[one.best]], type: "scatter", mode: "markers",
          marker: { symbol: "star", size: 14, color: ink, line: { color: tone("--ground"),
            width: 1.2 } }, hoverinfo: "skip" });
      }
      if (!thin && !fit && one.y[place] !== null) {
        traces.push({ x: [x[place]], y: [one.y[place]], type: "scatter", mode: "markers",
          marker: { symbol: SYMBOLS[one.dash % SYMBOLS.length], size: 9, color: ink,
            line: { color: tone("--ground"), width: 1.5 } }, hoverinfo: "skip" });
      }
    }
    return traces;
  }

  function layout(chart) {
    const grid = tone("--line");
    const shapes = [];
    const annotations = [];
    const plane = chart.series.some((one) => one.x);
    if (!plane) {
      const step = chart.steps[placeOf(chart)];
      shapes.push({ type: "line", xref: "x", yref: "paper", x0: step, x1: step, y0: 0, y1: 1,
        line: { color: tone("--mark"), width: 1.5 }, layer: "below" });
    }
    for (const level of chart.levels) {
      if (level.keys.some((key) => off.has(key))) continue;
      const ink = level.color === null ? tone("--soft") : color(level.color);
      shapes.push({ type: "line", xref: "paper", yref: "y", x0: 0, x1: 1, y0: level.y, y1: level.y,
        line: { color: ink, width: 1.4, dash: "6px,4px" } });
      if (level.color === null) {
        annotations.push({ xref: "paper", yref: "y", x: 0.99, xanchor: "right",
          y: chart.log ? Math.log10(level.y) : level.y, yanchor: "bottom", showarrow: false,
          text: plain(level.name), font: { size: 10.5, color: tone("--soft") },
          bgcolor: faint(tone("--ground"), 0.7), borderpad: 1 });
      }
    }
    if (chart.band) {
      shapes.push({ type: "rect", xref: "paper", yref: "y", x0: 0, x1: 1, y0: chart.band[0],
        y1: chart.band[1], fillcolor: faint(tone("--soft"), 0.22), line: { width: 0 },
        layer: "below" });
      shapes.push({ type: "line", xref: "paper", yref: "y", x0: 0, x1: 1, y0: 0, y1: 0,
        line: { color: tone("--soft"), width: 1, dash: "6px,4px" } });
    }
    const axis = { gridcolor: grid, zeroline: false, linecolor: grid, ticks: "outside",
      tickcolor: grid, ticklen: 4, automargin: true };
    return {
      autosize: true, height: 270, margin: { l: 8, r: 10, t: 8, b: 8 }, showlegend: false,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: tone("--face"), size: 12, color: tone("--ink") },
      hovermode: plane ? "closest" : "x unified", hoverdistance: 40,
      hoverlabel: { font: { size: 12, color: tone("--ink") }, namelength: -1,
        bgcolor: tone("--raised"), bordercolor: grid },
      dragmode: matchMedia("(pointer:coarse)").matches ? false : "zoom",
      xaxis: { ...axis, unifiedhovertitle: { text: "step %{x}" }, title: { text: plain(chart.xtitle), standoff: 6, font: { size: 12 } } },
      yaxis: { ...axis, title: { text: plain(chart.ytitle), standoff: 6, font: { size: 12 } },
        type: chart.log ? "log" : "linear", exponentformat: "power", nticks: 7,
        dtick: undefined, range: chart.range ? [...chart.range] : undefined },
      shapes, annotations,
    };
  }

  const LOOK = { responsive: true, displayModeBar: false };

  function piece(name, ...content) {
    const made = document.createElement(name);
    made.append(...content);
    return made;
  }

  function read(figure, chart) {
    const readout = figure.querySelector(".readout");
    const place = placeOf(chart);
    readout.replaceChildren();
    if (chart.told) {
      readout.append(piece("span", chart.told[place]));
      return;
    }
    readout.append(piece("b", `step ${chart.steps[place]}`));
    const told = chart.series.filter((one) => one.role !== "thin" && one.role !== "fit");
    // More values than can be read at a glance are left to pointing and to the table.
    if (told.length > 9) return;
    for (const one of told) {
      if (!seen(one)) continue;
      const dot = piece("i");
      dot.style.background = color(one.color);
      const value = one.x ? `${short(one.x[place])}, ${short(one.y[place])}` : short(one.y[place]);
      const chip = piece("span", dot, piece("bdi", one.short), " ", piece("b", value));
      chip.className = "chip";
      readout.append(chip);
    }
  }

  function draw(figure) {
    const chart = charts[Number(figure.dataset.chart)];
    read(figure, chart);
    Plotly.react(figure.querySelector(".plot"), curves(chart), layout(chart), LOOK);
    drawn.add(figure);
  }

  let waiting = false;
  const stale = new Set();
  // Charts out of sight wait until they come into it.
  function refresh() {
    for (const figure of figures) stale.add(figure);
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      for (const figure of near) { draw(figure); stale.delete(figure); }
    });
  }
  const watch = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) { near.delete(target); continue; }
      near.add(target);
      if (!drawn.has(target) || stale.has(target)) { draw(target); stale.delete(target); }
    }
  }, { rootMargin: "600px" });
  for (const figure of figures) watch.observe(figure);
  addEventListener("beforeprint", () => figures.forEach(draw));

  const toggles = [...document.querySelectorAll(".toggle")];
  const show = () => {
    for (const button of toggles) {
      button.setAttribute("aria-pressed", String(!off.has(button.dataset.key)));
    }
    refresh();
  };
  for (const button of toggles) {
    const key = button.dataset.key;
    button.addEventListener("click", (event) => {
      if (event.shiftKey) {
        // This one alone.
        for (const other of toggles) off.add(other.dataset.key);
        off.delete(key);
      } else if (!off.delete(key)) {
        off.add(key);
      }
      show();
    });
  }
  const all = document.getElementById("all");
  if (all) all.addEventListener("click", () => { off.clear(); show(); });

  if (slider) {
    slider.max = String(Math.max(0, steps.length - 1));
    slider.value = String(at);
    const tell = () => {
      now.textContent = String(steps[at]);
      slider.setAttribute("aria-valuetext", `step ${steps[at]}`);
    };
    slider.addEventListener("input", () => { at = Number(slider.value); tell(); refresh(); });
    tell();
  }

  // Tables are made when they are asked for: they say again what the charts hold.
  for (const place of document.querySelectorAll(".data")) {
    place.closest("details").addEventListener("toggle", () => {
      if (place.firstChild) return;
      const from = Number(place.dataset.from);
      charts.slice(from, Number(place.dataset.to)).forEach((chart) => place.append(table(chart)));
    });
  }
  function table(chart) {
    const made = piece("table", piece("caption", `${chart.title}: ${chart.ytitle}`));
    const plane = chart.series.some((one) => one.x);
    const head = piece("tr", piece("th", plane ? "forget score, utility" : "step"),
      ...chart.steps.map((step) => piece("th", String(step))));
    made.append(piece("thead", head));
    const body = piece("tbody");
    for (const one of chart.series) {
      if (one.role === "fit") continue;
      const row = piece("tr", piece("th", piece("bdi", one.name)));
      one.y.forEach((value, i) => {
        let text = short(value);
        if (one.x) text = `${short(one.x[i])}, ${text}`;
        if (one.low && one.low[i] !== null) {
          text += ` (${short(one.low[i])} to ${short(one.high[i])})`;
        }
        row.append(piece("td", text));
      });
      body.append(row);
    }
    for (const level of chart.levels) {
      body.append(piece("tr", piece("th", piece("bdi", level.name)), piece("td", short(level.y))));
    }
    made.append(body);
    const box = piece("div", made);
    box.className = "scroll";
    box.tabIndex = 0;
    return box;
  }

  const theme = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : dark.matches;
  const name = () => {
    theme.textContent = isDark() ? "Light" : "Dark";
    theme.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colors`);
  };
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    name();
    refresh();
  });
  dark.addEventListener("change", () => { name(); refresh(); });
  name();
})();
