// The words and curves of a run. All text goes in as text, never as markup.

const LINE_COLOURS = ["#3b82c4", "#d9772b", "#2f9e6d", "#a65fc1"];

function element(name, text, parent) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  parent?.append(made);
  return made;
}

function showFacts(list, facts) {
  for (const [name, value] of facts) {
    element("dt", name, list);
    element("dd", value, list);
  }
}

// charts: [{title, series: [{name, steps: [...], values: [...]}]}]; values may hold null.
function showCurves(holder, charts) {
  for (const chart of charts) {
    const figure = element("figure", undefined, holder), caption = element("figcaption", chart.title, figure);
    const alone = chart.series.length === 1;
    const words = chart.series.map((series, i) => {
      const word = element("span", undefined, caption);
      if (!alone) element("i", undefined, word).style.background = LINE_COLOURS[i % LINE_COLOURS.length];
      const label = element("b", "", word);
      label.style.fontWeight = "inherit";
      return label;
    });
    const say = (step) => chart.series.forEach((series, i) => {
      const at = step === null ? series.values.length - 1 : nearest(series.steps, step);
      words[i].textContent = `${alone ? "" : `${series.name} `}${brief(series.values[at])}`;
    });
    say(null);
    const range = extent(chart.series);
    const svg = drawCurves(chart, range);
    figure.append(svg);
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const step = range.first + ((event.clientX - box.left) / box.width) * (range.last - range.first);
      const mark = svg.querySelector(".mark");
      mark.setAttribute("x1", event.clientX - box.left);
      mark.setAttribute("x2", event.clientX - box.left);
      mark.setAttribute("visibility", "visible");
      say(step);
    });
    svg.addEventListener("pointerleave", () => {
      svg.querySelector(".mark").setAttribute("visibility", "hidden");
      say(null);
    });
  }
}

function extent(all) {
  const steps = all.flatMap((series) => series.steps);
  const values = all.flatMap((series) => series.values).filter((value) => value !== null);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return { first: Math.min(...steps), last: Math.max(...steps), low, high: high > low ? high : low + 1 };
}

function drawCurves(chart, { first, last, low, high }) {
  const make = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const svg = make("svg", { role: "img", "aria-label": `${chart.title} over the steps of the run` });
  const inner = make("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", width: "100%", height: "100%" });
  const x = (step) => (last > first ? (100 * (step - first)) / (last - first) : 50);
  const y = (value) => 95 - (90 * (value - low)) / (high - low);
  if (low < 0 && high > 0) inner.append(make("line", { x1: 0, x2: 100, y1: y(0), y2: y(0) }));
  chart.series.forEach((series, i) => {
    let path = "", pen = "M";
    series.values.forEach((value, at) => {
      if (value === null) { pen = "M"; return; }
      path += `${pen}${x(series.steps[at]).toFixed(2)} ${y(value).toFixed(2)}`;
      pen = "L";
    });
    inner.append(make("path", { d: path, stroke: LINE_COLOURS[i % LINE_COLOURS.length] }));
  });
  svg.append(inner, make("line", { class: "mark", y1: 0, y2: 86, x1: 0, x2: 0, visibility: "hidden" }));
  return svg;
}

function nearest(steps, step) {
  let best = 0;
  for (let i = 1; i < steps.length; i++) if (Math.abs(steps[i] - step) < Math.abs(steps[best] - step)) best = i;
  return best;
}

function brief(value) {
  if (value === null || value === undefined) return "–";
  return Math.abs(value) >= 1000 ? String(Math.round(value)) : String(Number(value.toPrecision(3)));
}
