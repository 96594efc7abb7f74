"use strict";
const $ = id => document.getElementById(id);
// A request holds few photos, so that answers come while others are sent, and few bytes, so that no server refuses it.
const PHOTOS_PER_REQUEST = 8, BYTES_PER_REQUEST = 20e6;
// An answer is called unsure below this share, or when the next best is as near as this; a tag when as near to its mark.
const SURE = 0.5, APART = 0.1, NEAR = 0.05;
const TAGS_SHOWN = 8;
let items = [], running = false, token = sessionStorage.getItem("token") || "";

function make(tag, attributes = {}, ...children) {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
}
function say(text, bad = false) { $("status").textContent = text; $("status").className = bad ? "bad" : ""; }
const percent = score => (100 * score).toFixed(score >= 0.0995 ? 0 : 1) + " %";
const width = score => (100 * score).toFixed(1) + "%";
// CASUAL_DRESSES is Casual dresses.
function readable(name) {
  const words = name.replaceAll("_", " ").trim();
  const lower = words === words.toUpperCase() && /[A-Z]{2}/.test(words) ? words.toLowerCase() : words;
  return lower.charAt(0).toUpperCase() + lower.slice(1);
}

function bar(entry, kind, mark) {
  const fill = make("i");
  fill.style.width = width(entry.score);
  const parts = [fill];
  if (mark !== undefined) { parts.push(make("b")); parts[1].style.left = width(mark); }
  return make("div", {className: "bar " + kind}, ...parts, make("span", {},
    make("span", {textContent: readable(entry.name), title: entry.name}), make("span", {textContent: percent(entry.score)})));
}
function heading(name, unsure) {
  return make("h3", {}, readable(name), ...(unsure ? [make("span", {className: "unsure", textContent: "unsure"})] : []));
}
function classes(name, task) {
  const [best, next] = task.classes;
  const unsure = best.score < SURE || (next && best.score - next.score < APART);
  return [heading(name, unsure), ...task.classes.filter(entry => entry.top)
    .map((entry, rank) => bar(entry, rank ? "" : "best"))];
}
function tags(name, task) {
  const drawn = entry => {
    const element = bar(entry, entry.present ? "yes" : "", entry.threshold);
    element.title = `${entry.present ? "present" : "not present"}: score ${entry.score.toFixed(3)}, `
      + `the mark is its threshold ${entry.threshold.toFixed(3)}`;
    element.querySelector("span span").prepend(entry.present ? "✓ " : "");
    return element;
  };
  const unsure = task.classes.some(entry => Math.abs(entry.score - entry.threshold) < NEAR);
  const few = task.classes.length <= TAGS_SHOWN;
  const first = few ? task.classes : task.classes.filter(entry => entry.present);
  const others = few ? [] : task.classes.filter(entry => !entry.present).sort((a, b) => b.score - a.score);
  return [heading(name, unsure), ...first.map(drawn), ...(others.length ? [make("details", {},
    make("summary", {textContent: `${others.length} more, not present`}), ...others.map(drawn))] : [])];
}
function numbers(name, task) {
  return [heading(name), ...task.numbers.map(entry => make("p", {className: "number"},
    make("span", {textContent: readable(entry.name), title: entry.name}),
    make("strong", {textContent: Number(entry.value.toPrecision(4)).toLocaleString("en")})))];
}
// One way to show each kind of task.
const show = {multiclass: classes, multilabel: tags, regression: numbers};
const columns = {
  multiclass: task => task.classes.map(entry => [entry.name, entry.score]),
  multilabel: task => task.classes.map(entry => [entry.name, entry.score]),
  regression: task => task.numbers.map(entry => [entry.name, entry.value]),
};

// A photo from the moment it is chosen: waiting, sending, done, failed or cancelled.
function newItem(file) {
  const image = make("img", {alt: file.name, src: URL.createObjectURL(file), loading: "lazy"});
  image.onerror = () => image.replaceWith(make("div", {className: "none", textContent: "no picture"}));
  const picture = make("div", {className: "picture"}, image);
  const text = make("div", {className: "text"});
  const item = {file, state: "waiting", picture, text, image, element: make("li", {className: "card"}, picture, text)};
  draw(item);
  return item;
}
function draw(item) {
  const {file, text, picture, state, answer} = item;
  text.replaceChildren(make("h2", {textContent: file.name, title: file.name}));
  picture.querySelector("progress")?.remove();
  if (state === "waiting" || state === "sending") {
    const stop = make("button", {type: "button", textContent: "Cancel", onclick: () => cancel(item)});
    stop.setAttribute("aria-label", "Cancel " + file.name);
    text.append(make("p", {className: "waiting"}, make("span", {textContent: state + " …"}), stop));
    if (state === "sending") picture.append(make("progress", {max: 1, value: item.sent || 0}));
  } else if (state === "failed" || !answer.ok) {
    text.append(make("p", {className: "why", textContent: state === "failed" ? item.problem : answer.status}));
  } else {
    item.image.alt = `${file.name}: ${[answer.label, ...answer.tags].filter(Boolean).map(readable).join(", ")}`;
    for (const [name, task] of Object.entries(answer.tasks)) text.append(...show[task.kind](name, task));
  }
}
function set(item, state, more = {}) { Object.assign(item, {state}, more); draw(item); tell(); }
function cancel(item) {
  item.element.remove();
  items = items.filter(other => other !== item);
  item.state = "cancelled";
  if (item.part && item.part.items.every(other => other.state === "cancelled")) item.part.request.abort();
  tell();
}
function tell() {
  const count = state => items.filter(item => item.state === state).length;
  const done = count("done"), failed = count("failed"), open = count("waiting") + count("sending");
  const bad = items.filter(item => item.state === "done" && !item.answer.ok).length;
  $("save").hidden = !done;
  $("clear").hidden = !items.length || open > 0;
  $("stop").hidden = !open;
  $("again").hidden = open > 0 || !failed;
  $("about").hidden = items.length > 0 || !$("about").childElementCount;
  if (open) return say(`${done} of ${items.length} answered …`);
  if (failed) return say(`${failed} not answered: ${items.find(item => item.state === "failed").problem}`, true);
  if (!done) return say("");
  const milliseconds = items.reduce((sum, item) => sum + (item.milliseconds || 0), 0);
  say(`${done} ${done === 1 ? "photo" : "photos"} in ${(milliseconds / 1000).toFixed(2)} s`
    + (bad ? `, ${bad} could not be read` : ""));
}

function send(part) {
  return new Promise((resolve, reject) => {
    const form = new FormData(), request = part.request = new XMLHttpRequest();
    for (const item of part.items) form.append("files", item.file, item.file.name);
    request.open("POST", "files");
    if (token) request.setRequestHeader("Authorization", "Bearer " + token);
    request.upload.onprogress = event => {
      for (const item of part.items) {
        item.sent = event.lengthComputable ? event.loaded / event.total : 0;
        const shown = item.picture.querySelector("progress");
        if (shown) item.sent < 1 ? shown.value = item.sent : shown.removeAttribute("value");
      }
    };
    request.onload = () => {
      let body = {};
      try { body = JSON.parse(request.responseText); } catch { body = {error: "status " + request.status}; }
      resolve({status: request.status, body});
    };
    request.onerror = () => reject(new Error("the server cannot be reached"));
    request.onabort = () => reject(new Error("cancelled"));
    request.send(form);
  });
}
async function askForToken(again) {
  $("wrong").textContent = again ? "That token is not right." : "";
  $("token").value = "";
  $("ask").returnValue = "";
  $("ask").showModal();
  await new Promise(done => $("ask").addEventListener("close", done, {once: true}));
  token = $("ask").returnValue === "go" ? $("token").value : "";
  sessionStorage.setItem("token", token);
  return Boolean(token);
}
function nextPart() {
  const waiting = items.filter(item => item.state === "waiting"), chosen = [];
  let bytes = 0;
  for (const item of waiting) {
    bytes += item.file.size;
    if (chosen.length && (chosen.length === PHOTOS_PER_REQUEST || bytes > BYTES_PER_REQUEST)) break;
    chosen.push(item);
    if (item.alone) break;
  }
  return chosen.length ? {items: chosen} : null;
}
async function answer(part) {
  for (const item of part.items) set(item, "sending", {part, sent: 0});
  const there = () => part.items.filter(item => item.state !== "cancelled");
  try {
    let found = await send(part);
    for (let again = Boolean(token); found.status === 401; again = true) {
      if (!await askForToken(again)) throw new Error("this server asks for a token");
      found = await send(part);
      if (found.status !== 401) describe();
    }
    if (found.status === 413 && part.items.length > 1) {
      for (const item of there()) set(item, "waiting", {alone: true});
      return;
    }
    if (found.status !== 200) throw new Error(found.body.error);
    $("model").textContent = "model version " + found.body.model_version;
    part.items.forEach((item, row) => {
      if (item.state === "cancelled") return;
      set(item, "done", {answer: found.body.results[row], milliseconds: found.body.milliseconds / part.items.length});
    });
  } catch (error) {
    for (const item of there()) set(item, "failed", {problem: error.message});
  }
}
async function work() {
  if (running) return;
  running = true;
  for (let part = nextPart(); part; part = nextPart()) await answer(part);
  running = false;
  tell();
}
function take(list) {
  const more = [...list].map(newItem);
  items.push(...more);
  $("results").append(...more.map(item => item.element));
  if (more.length) { tell(); work(); }
}

// What the model can tell, before there is a photo, and how an answer looks.
async function describe() {
  const found = await fetch("model", {headers: token ? {Authorization: "Bearer " + token} : {}}).catch(() => null);
  if (!found || !found.ok) return;
  const {model_version, tasks} = await found.json();
  $("model").textContent = "model version " + model_version;
  const kinds = {multiclass: "one of ", multilabel: "any of ", regression: "numbers: "};
  const list = make("dl");
  for (const task of tasks) {
    const names = task.classes.map(readable), some = names.slice(0, 12).join(", ");
    const more = names.length > 12 ? ` and ${names.length - 12} more` : "";
    list.append(make("dt", {textContent: readable(task.name)}), make("dd", {textContent: kinds[task.kind] + some + more}));
  }
  const text = make("div", {className: "text"}, make("h2", {textContent: "example of an answer, made up"}));
  for (const task of tasks.slice(0, 3)) text.append(...show[task.kind](task.name, madeUp(task)));
  const picture = make("div", {className: "picture"});
  picture.innerHTML = `<svg viewBox="0 0 120 100" role="img" aria-label="a drawn dress"><g fill="none" stroke-width="0">
    <path d="M48 14l5 8h14l5-8 7 4-6 22 16 46q-29 10-58 0l16-46-6-22z" fill="var(--accent)" opacity=".8"/>
    <g fill="var(--card)"><circle cx="55" cy="36" r="3"/><circle cx="66" cy="44" r="3"/><circle cx="53" cy="54" r="3"/>
    <circle cx="66" cy="62" r="3"/><circle cx="48" cy="70" r="3"/><circle cx="60" cy="78" r="3"/><circle cx="75" cy="74" r="3"/></g></g></svg>`;
  $("about").replaceChildren(make("div", {className: "card"}, picture, text),
    make("div", {}, make("h2", {className: "ask", textContent: "For every photo it answers"}), list));
  tell();
}
function madeUp(task) {
  const some = task.classes.slice(0, 3);
  return {
    multiclass: () => ({classes: some.map((name, at) => ({name, score: [0.86, 0.09, 0.05][at], top: at < 2}))}),
    multilabel: () => ({classes: some.map((name, at) => ({name, score: [0.91, 0.12, 0.05][at], threshold: [0.5, 0.4, 0.6][at], present: !at}))}),
    regression: () => ({numbers: some.map(name => ({name, value: 42}))}),
  }[task.kind]();
}

function csv() {
  const answers = items.filter(item => item.state === "done").map(item => ({...item.answer, file: item.file.name}));
  const good = answers.find(answer => answer.ok);
  const tasks = good ? Object.entries(good.tasks) : [];
  const names = tasks.map(([, task]) => columns[task.kind](task).map(([name]) => name).sort());
  const rows = [["file", "status", "label", "confidence", "tags",
    ...tasks.flatMap(([task], at) => names[at].map(name => `${task} ${name}`))]];
  for (const answer of answers) {
    const scores = tasks.flatMap(([task], at) => {
      const found = answer.ok ? Object.fromEntries(columns[answer.tasks[task].kind](answer.tasks[task])) : {};
      return names[at].map(name => found[name] ?? "");
    });
    rows.push([answer.file, answer.status, answer.label ?? "", answer.confidence ?? "", (answer.tags || []).join("; "), ...scores]);
  }
  // A cell that begins like a formula would be run as one by a spreadsheet.
  const cell = value => {
    const text = String(value).replace(/^[=+\-@\t\r]/, "'$&");
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map(row => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

$("drop").onclick = () => $("pick").click();
$("pick").onchange = () => { take($("pick").files); $("pick").value = ""; };
addEventListener("dragover", event => { event.preventDefault(); $("drop").classList.add("over"); });
addEventListener("dragleave", event => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
addEventListener("drop", event => {
  event.preventDefault(); $("drop").classList.remove("over"); take(event.dataTransfer.files);
});
addEventListener("paste", event => take(event.clipboardData.files));
$("leave").onclick = () => $("ask").close("");
$("stop").onclick = () => items.filter(item => ["waiting", "sending"].includes(item.state)).forEach(cancel);
$("again").onclick = () => { items.filter(item => item.state === "failed").forEach(item => set(item, "waiting")); work(); };
$("clear").onclick = () => {
  items.forEach(item => URL.revokeObjectURL(item.image.src));
  items = []; $("results").replaceChildren(); tell();
};
$("save").onclick = () => {
  const link = make("a", {href: URL.createObjectURL(new Blob(["\ufeff" + csv()], {type: "text/csv"})), download: "answers.csv"});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};
describe();
