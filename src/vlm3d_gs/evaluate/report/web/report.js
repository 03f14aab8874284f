const data = JSON.parse(document.getElementById("data").textContent);
const COLORS = ["#2f6fdb", "#d2681f", "#2b9a62", "#9c4fc0", "#b3882a", "#c23b64", "#3f9fae", "#7a7f86"];
const byId = (id) => document.getElementById(id);

function make(tag, text, name) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  if (name) element.className = name;
  return element;
}

const percent = (value) => `${(100 * value).toFixed(0)} %`;
const plain = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(2));
const isShare = (name) => name !== "seconds";

function spanned(interval, show) {
  if (!interval) return { text: "–", value: null };
  const span = interval.low === null ? null : `${show(interval.low)} to ${show(interval.high)}`;
  return { text: show(interval.value), value: interval.value, small: span };
}

// A cell is text, or {text, value to sort by, small, name of a class}.
function table(element, heads, rows) {
  const head = element.createTHead().insertRow();
  const body = element.createTBody();
  const parsed = rows.map((row) => row.map((cell) => (cell !== null && typeof cell === "object" ? cell : { text: cell ?? "–", value: cell })));
  const fill = (list) => {
    body.replaceChildren();
    for (const row of list) {
      const line = body.insertRow();
      for (const cell of row) {
        const place = line.insertCell();
        place.append(String(cell.text));
        if (cell.small) place.append(make("small", cell.small));
        if (cell.name) place.className = cell.name;
      }
    }
  };
  heads.forEach((name, column) => {
    const place = make("th");
    place.scope = "col";
    const button = make("button", name);
    button.type = "button";
    button.addEventListener("click", () => {
      const up = place.getAttribute("aria-sort") !== "ascending";
      for (const other of head.cells) other.removeAttribute("aria-sort");
      place.setAttribute("aria-sort", up ? "ascending" : "descending");
      const sorted = [...parsed].sort((one, two) => {
        const [a, b] = [one[column].value, two[column].value];
        if (a === null || a === undefined) return 1;
        if (b === null || b === undefined) return -1;
        const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
        return up ? order : -order;
      });
      fill(sorted);
    });
    place.append(button);
    head.append(place);
  });
  fill(parsed);
}

function groupTable() {
  const names = Object.keys(data.groups[0].measures).filter((name) => data.groups.some((group) => group.measures[name]));
  const rows = data.groups.map((group) => [
    group.group, group.runs, group.prompts,
    ...names.map((name) => spanned(group.measures[name], isShare(name) ? percent : plain)),
  ]);
  table(byId("groups"), ["Group", "Runs", "Prompts", ...names], rows);
}

function duelTable() {
  byId("duel-part").hidden = data.duels.length === 0;
  if (!data.duels.length) return;
  const small = (p) => (p < 0.001 ? "< 0.001" : p.toFixed(3));
  const rows = data.duels.map((duel) => [
    duel.first, duel.second, { text: duel.measure, value: duel.measure },
    spanned(duel.difference, (value) => (value > 0 ? "+" : "") + value.toFixed(2)),
    duel.wins, duel.ties, duel.losses,
    duel.consistency === null ? { text: "–", value: null } : { text: percent(duel.consistency), value: duel.consistency },
    { text: small(duel.p), value: duel.p },
    { text: small(duel.p_holm), value: duel.p_holm, name: duel.p_holm < 0.05 ? "good" : "" },
  ]);
  table(byId("duels"), ["First", "Second", "Measure", "Difference", "Won", "Tied", "Lost", "Orders agree", "p", "Holm"], rows);
}

function runTable() {
  const judges = [...new Set(data.runs.flatMap((run) => Object.keys(run.scores)))];
  const rows = data.runs.map((run) => [
    data.groups[run.group].group, { text: run.prompt, value: run.prompt, name: "words" }, run.seed,
    verdict(run), ...judges.map((judge) => answered(run, judge)),
    { text: run.seconds === null ? "–" : run.seconds.toFixed(0), value: run.seconds }, run.steps, run.gaussians,
  ]);
  table(byId("runs"), ["Group", "Prompt", "Seed", "Checker", ...judges, "Seconds", "Steps", "Gaussians"], rows);
}

function verdict(run) {
  if (!run.checked) return { text: "–", value: null };
  const word = run.checked.right ? "right" : run.checked.content ? "not clean" : "wrong";
  return { text: word, value: word, small: run.checked.reasons.join("; "), name: `words ${run.checked.right ? "good" : "bad"}` };
}

function answered(run, judge) {
  const score = run.scores[judge];
  if (score === undefined) return { text: "–", value: null };
  const odds = Object.entries(run.answers[judge]).map(([name, value]) => `${name} ${value > 0 ? "+" : ""}${value.toFixed(1)}`);
  return { text: percent(score), value: score, small: odds.join(", ") };
}

const SVG = "http://www.w3.org/2000/svg";

function curves(runs) {
  const place = make("div", null, "curves");
  for (const title of [...new Set(runs.flatMap((run) => run.charts.map((chart) => chart.title)))]) {
    const lines = [];
    for (const run of runs) {
      for (const chart of run.charts.filter((one) => one.title === title)) {
        for (const series of chart.series) lines.push({ run, series });
      }
    }
    const values = lines.flatMap(({ series }) => series.values.filter((value) => value !== null));
    const steps = Math.max(...lines.flatMap(({ series }) => series.steps), 1);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const image = document.createElementNS(SVG, "svg");
    image.setAttribute("viewBox", "0 0 100 40");
    image.setAttribute("preserveAspectRatio", "none");
    image.setAttribute("role", "img");
    image.setAttribute("aria-label", `${title}, ${plain(low)} to ${plain(high)}`);
    for (const { run, series } of lines) {
      const path = document.createElementNS(SVG, "path");
      let text = "", pen = "M";
      series.values.forEach((value, index) => {
        if (value === null) { pen = "M"; return; }
        const y = high > low ? 37 - 34 * (value - low) / (high - low) : 20;
        text += `${pen}${(100 * series.steps[index] / steps).toFixed(2)} ${y.toFixed(2)}`;
        pen = "L";
      });
      path.setAttribute("d", text);
      path.setAttribute("stroke", COLORS[run.group % COLORS.length]);
      image.append(path);
    }
    const box = make("div");
    const caption = make("p", `${title}: ${plain(low)} to ${plain(high)}`);
    for (const group of [...new Set(lines.map(({ run }) => run.group))]) {
      const mark = make("i");
      mark.style.background = COLORS[group % COLORS.length];
      caption.append(mark, data.groups[group].group);
    }
    box.append(caption, image);
    place.append(box);
  }
  return place;
}

const screens = [];

function scene(run, index) {
  const figure = make("figure");
  const canvas = make("canvas");
  canvas.width = canvas.height = data.turn.size_px;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${data.groups[run.group].group}: ${run.prompt}`);
  const picture = new Image();
  picture.addEventListener("load", () => draw(screen));
  const screen = { canvas, picture };
  screens.push(screen);
  picture.src = data.sprites[index];
  const caption = make("figcaption");
  caption.append(make("b", data.groups[run.group].group));
  const found = verdict(run);
  caption.append(make("span", `seed ${run.seed ?? "?"}, ${run.seconds === null ? "? s" : `${run.seconds.toFixed(0)} s`}`));
  if (run.checked) caption.append(make("span", found.text, run.checked.right ? "good" : "bad"));
  for (const [judge, score] of Object.entries(run.scores)) caption.append(make("span", `${judge}: ${percent(score)}`));
  figure.append(canvas, caption);
  return figure;
}

let frame = 0;

function draw({ canvas, picture }) {
  if (!picture.complete || !picture.naturalWidth) return;
  const side = data.turn.size_px;
  const [x, y] = [frame % data.turn.columns, Math.floor(frame / data.turn.columns)];
  canvas.getContext("2d").drawImage(picture, x * side, y * side, side, side, 0, 0, side, side);
}

function turnTo(next) {
  frame = next;
  byId("angle").value = frame;
  byId("degrees").textContent = `${Math.round(360 * frame / data.turn.frames)}°`;
  screens.forEach(draw);
}

function scenes() {
  const place = byId("scenes");
  for (const prompt of [...new Set(data.runs.map((run) => run.prompt))]) {
    const box = make("div", null, "prompt");
    box.append(make("h3", prompt));
    const row = make("div", null, "row");
    const own = [];
    data.runs.forEach((run, index) => {
      if (run.prompt !== prompt) return;
      own.push(run);
      row.append(scene(run, index));
    });
    box.append(row);
    if (own.some((run) => run.charts.length)) {
      const more = make("details");
      more.append(make("summary", "Curves"), curves(own));
      box.append(more);
    }
    place.append(box);
  }
  const angle = byId("angle");
  angle.max = data.turn.frames - 1;
  angle.addEventListener("input", () => turnTo(Number(angle.value)));
  let timer = null;
  byId("play").addEventListener("click", () => {
    timer = timer === null ? setInterval(() => turnTo((frame + 1) % data.turn.frames), 120) : clearInterval(timer) ?? null;
    byId("play").setAttribute("aria-pressed", String(timer !== null));
  });
  byId("filter").addEventListener("input", () => {
    const wanted = byId("filter").value.toLowerCase();
    for (const box of place.children) box.hidden = !box.firstChild.textContent.toLowerCase().includes(wanted);
  });
}

function settings() {
  const rows = Object.entries(data.settings).map(([name, values]) => [name, ...values.map((value) => ({ text: value, value, name: "words" }))]);
  byId("setting-part").hidden = rows.length === 0;
  if (rows.length) table(byId("settings"), ["Setting", ...data.groups.map((group) => group.group)], rows);
}

byId("lead").textContent = `${data.runs.length} runs in ${data.groups.length} groups.`;
for (const note of data.notes) byId("notes").append(make("li", note));
groupTable();
duelTable();
scenes();
runTable();
settings();
byId("foot").textContent = `Written by ${data.made_by}. One file, no request to anywhere.`;
