
"use strict";
const all = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const PAGE = 60;
let shown = PAGE;

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// Films play only while they are on the screen: a page may hold thousands.
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) {
      if (!target.src) target.src = target.dataset.src;
      target.play().catch(() => {});
    } else {
      target.pause();
    }
  }
});

function path(row, file) {
  return row.folder + "/" + file.split("/").map(encodeURIComponent).join("/");
}

function film(row) {
  if (row.film === null) return make("div", "film none", row.reason || row.status);
  if (!row.film.endsWith(".mp4")) {
    const picture = make("img", "film");
    picture.loading = "lazy";
    picture.src = path(row, row.film);
    picture.alt = row.prompt;
    return picture;
  }
  const video = make("video", "film");
  Object.assign(video, { muted: true, loop: true, playsInline: true, preload: "none" });
  video.dataset.src = path(row, row.film);
  watcher.observe(video);
  return video;
}

function card(row) {
  const article = make("article", row.status);
  const text = make("div", "text");
  const score = row.score === null ? "" : ", score " + row.score.toFixed(2);
  text.append(make("p", "", row.prompt));
  text.append(make("p", "facts", row.status + ", " + row.seconds.toFixed(1) + " s, seed " + row.seed + score));
  const links = make("p", "links");
  for (const file of row.files) {
    const link = make("a", "", file);
    link.href = path(row, file);
    links.append(link);
  }
  links.append(make("span", "", row.id));
  text.append(links);
  article.append(film(row), text);
  return article;
}

function chosen() {
  const words = at("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const status = at("status").value;
  const rows = all.filter((row) => {
    const text = row.prompt.toLowerCase() + " " + row.id.toLowerCase();
    return (!status || row.status === status) && words.every((word) => text.includes(word));
  });
  const score = (row) => (row.score === null ? -Infinity : row.score);
  const order = at("order").value;
  if (order === "best") rows.sort((a, b) => score(b) - score(a));
  if (order === "worst") rows.sort((a, b) => score(a) - score(b));
  if (order === "slow") rows.sort((a, b) => b.seconds - a.seconds);
  return rows;
}

function draw() {
  const rows = chosen();
  watcher.disconnect();
  at("cards").replaceChildren(...rows.slice(0, shown).map(card));
  at("count").textContent = rows.length + " of " + all.length;
  at("more").hidden = rows.length <= shown;
}

for (const id of ["words", "status", "order"]) {
  at(id).addEventListener("input", () => { shown = PAGE; draw(); });
}
at("more").addEventListener("click", () => { shown += PAGE; draw(); });
draw();
