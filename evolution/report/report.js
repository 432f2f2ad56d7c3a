"use strict";
// Texts of documents and models are untrusted: they reach the page through textContent only.

const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 15;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

function options(select, entries) {
  for (const [value, label] of entries) select.append(element("option", { value }, label));
}

// A table with controls: `find` gives the rows for the state of the form, `draw` the table row(s) of one.
function browser({ form, table, pager, find, draw, noun, head }) {
  let page = 0;
  let found = [];
  const caption = table.caption;
  const previous = element("button", { type: "button" }, "← Previous");
  const next = element("button", { type: "button" }, "Next →");
  const place = element("span");
  pager.append(previous, place, next);

  function show() {
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(page, pages - 1);
    table.tBodies[0].replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).flatMap(draw));
    caption.textContent = found.length === 1 ? `1 ${noun}` : `${found.length.toLocaleString("en")} ${noun}s`;
    place.textContent = `page ${page + 1} of ${pages}`;
    pager.hidden = pages === 1;
    previous.disabled = page === 0;
    next.disabled = page === pages - 1;
  }
  function search() {
    const fields = Object.fromEntries(new FormData(form));
    const words = fields.text.toLowerCase().split(/\s+/).filter(Boolean);
    found = find(fields, (text) => words.every((word) => text().includes(word)));
    page = 0;
    if (head) head(fields);
    show();
  }
  function turn(by) {
    page += by;
    show();
    table.scrollIntoView({ block: "nearest" });
  }
  let timer = 0;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(search, 120);
  });
  previous.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  search();
}

function browsePairs(form) {
  const pairs = data.pairs.map(([round, document, question, answer, reject, ifd, missing]) => {
    const searched = () => `${question}\n${answer}\n${data.documents[document]?.[0] ?? ""}`.toLowerCase();
    return { round, document, question, answer, reject, ifd, missing, searched };
  });
  const rounds = [...new Set(pairs.map((pair) => pair.round))];
  options(form.elements.round, rounds.map((round) => [round, String(round)]));
  const rejected = pairs.filter((pair) => pair.reject);
  const reasons = [...new Set(rejected.map((pair) => pair.reject))].sort();
  if (reasons.length) options(form.elements.kept, [["rejected", "rejected, all reasons"]]);
  options(form.elements.kept, reasons.map((reason) => [`=${reason}`, `rejected: ${reason}`]));
  const scored = pairs.some((pair) => pair.ifd !== null);
  document.getElementById("pair-order").hidden = !scored;

  function wanted(pair, kept) {
    if (kept === "kept") return !pair.reject;
    return kept === "rejected" ? Boolean(pair.reject) : `=${pair.reject}` === kept;
  }
  function find({ round, kept, order }, matches) {
    const found = pairs.filter(
      (pair) => (!round || pair.round === Number(round)) && wanted(pair, kept) && matches(pair.searched),
    );
    if (order) {
      const last = order === "hard" ? -Infinity : Infinity;
      const sign = order === "hard" ? -1 : 1;
      found.sort((a, b) => sign * ((a.ifd ?? last) - (b.ifd ?? last)) || 0);
    }
    return found;
  }
  function difficulty(pair) {
    if (pair.reject) return element("span", { class: "reject" }, pair.reject);
    if (pair.ifd !== null) return pair.ifd.toFixed(3);
    return pair.missing ? element("span", { class: "quiet" }, pair.missing) : "";
  }
  function draw(pair) {
    const button = element("button", { type: "button", "aria-expanded": "false" }, "Show");
    const row = element(
      "tr",
      {},
      element("td", {}, String(pair.round)),
      element("td", { class: "text" }, pair.question),
      element("td", { class: "text" }, pair.answer || element("span", { class: "quiet" }, "not answered")),
      element("td", {}, difficulty(pair)),
      element("td", {}, button),
    );
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-expanded") === "true";
      button.setAttribute("aria-expanded", String(!open));
      button.textContent = open ? "Show" : "Hide";
      if (open) {
        row.nextSibling.remove();
        return;
      }
      const [text, cut] = data.documents[pair.document] ?? ["The document cannot be read from the store.", false];
      const cell = element("td", { colspan: "5" }, element("code", { class: "quiet" }, pair.document));
      cell.append(element("blockquote", {}, text + (cut ? " …" : "")));
      row.after(element("tr", { class: "document" }, cell));
    });
    return [row];
  }
  const [table, pager] = ["pair-table", "pair-pager"].map((id) => document.getElementById(id));
  const ifd = table.tHead.rows[0].cells[3].firstChild;
  function head({ kept }) {
    table.tHead.rows[0].cells[3].replaceChildren(kept === "kept" ? ifd : "Rejected as");
    table.classList.toggle("without-difficulty", kept === "kept" && !scored);
  }
  browser({ form, table, pager, find, draw, head, noun: "pair" });
}

function browsePredictions(form) {
  const { rounds, right, best } = data.predictions;
  const last = rounds.length - 1;
  const name = (round) => (round ? `round ${round}` : "base");
  const items = data.predictions.items.map(([question, answer, said]) => {
    const marks = said.map((one) => (one ? one[1] >= right : null));
    const searched = () => [question, answer, ...said.map((one) => one?.[0] ?? "")].join("\n").toLowerCase();
    return { question, answer, said, marks, searched };
  });
  const kinds = {
    all: ["all", () => true],
    right: [`right in ${name(rounds[last])}`, ({ marks }) => marks[last]],
    wrong: [`wrong in ${name(rounds[last])}`, ({ marks }) => marks[last] === false],
    learned: ["learned: wrong at first, right at last", ({ marks }) => marks[0] === false && marks[last]],
    lost: ["forgotten: once right, wrong at last", ({ marks }) => marks.includes(true) && marks[last] === false],
    never: ["never right", ({ marks }) => !marks.includes(true)],
  };
  const told = Object.entries(kinds).filter(([key]) => last > 0 || ["all", "right", "wrong"].includes(key));
  options(
    form.elements.kind,
    told.map(([key, [label, test]]) => [key, `${label} (${items.filter(test).length})`]),
  );
  const choice = form.elements.round;
  const few = rounds.length <= 5;
  document.getElementById("item-round").hidden = few;
  options(choice, rounds.slice(1, -1).map((round) => [round, name(round)]));
  if (!few) choice.value = String(rounds.slice(1, -1).includes(best) ? best : rounds[Math.floor(last / 2)]);
  let columns = rounds.map((_, at) => at);

  const table = document.getElementById("item-table");
  function head({ round }) {
    if (!few) columns = [0, rounds.indexOf(Number(round)), last];
    const titles = ["Question", "Expected", ...columns.map((at) => name(rounds[at]))];
    if (!few) titles.push("All rounds");
    table.tHead.replaceChildren(element("tr", {}, ...titles.map((title) => element("th", { scope: "col" }, title))));
  }
  function said(item, at) {
    const one = item.said[at];
    if (!one) return element("td");
    const mark = item.marks[at] ? element("b", { title: "right" }, "✓ ") : element("b", { title: "wrong" }, "✗ ");
    const score = right < 1 ? element("span", { class: "quiet" }, ` ${one[1].toFixed(2)}`) : null;
    return element("td", { class: `text ${item.marks[at] ? "right" : "wrong"}` }, mark, one[0], score);
  }
  function trail(item) {
    const label = item.marks.map((mark, at) => `${name(rounds[at])} ${mark ? "right" : "wrong"}`).join(", ");
    const many = item.marks.length > 30 ? " many" : "";
    const cells = item.marks.map((mark) => element("i", { class: mark ? "right" : "wrong" }));
    return element("td", {}, element("span", { class: `trail${many}`, role: "img", "aria-label": label, title: label }, ...cells));
  }
  function draw(item) {
    const row = element("tr", {}, element("td", { class: "text" }, item.question), element("td", { class: "text" }, item.answer));
    row.append(...columns.map((at) => said(item, at)));
    if (!few) row.append(trail(item));
    return [row];
  }
  const find = ({ kind }, matches) => items.filter((item) => kinds[kind][1](item) && matches(item.searched));
  browser({ form, table, pager: document.getElementById("item-pager"), find, draw, head, noun: "question" });
}

function traceLineage(drawing) {
  const parents = new Map();
  const edges = [...drawing.querySelectorAll(".edge")];
  for (const { dataset } of edges) parents.set(dataset.to, [...(parents.get(dataset.to) ?? []), dataset.from]);
  function trace(id) {
    const found = new Set();
    const queue = id ? [id] : [];
    while (queue.length) {
      const stage = queue.pop();
      if (found.has(stage)) continue;
      found.add(stage);
      queue.push(...(parents.get(stage) ?? []));
    }
    drawing.classList.toggle("tracing", found.size > 0);
    for (const box of drawing.querySelectorAll(".stage")) box.classList.toggle("traced", found.has(box.dataset.id));
    for (const edge of edges) edge.classList.toggle("traced", found.has(edge.dataset.to));
  }
  drawing.addEventListener("pointerover", (event) => trace(event.target.closest(".stage")?.dataset.id));
  drawing.addEventListener("pointerleave", () => trace(null));
}

const pairForm = document.getElementById("pair-controls");
if (pairForm) browsePairs(pairForm);
const itemForm = document.getElementById("item-controls");
if (itemForm) browsePredictions(itemForm);
traceLineage(document.querySelector("svg.lineage"));
