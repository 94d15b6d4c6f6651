// Sorting inside each block of a table; rows without a value stay last, ties keep their order.
function sortBy(table, column, direction) {
  const sign = direction === "ascending" ? 1 : -1;
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter((row) => !row.classList.contains("title"));
    const keyed = rows.map((row) => {
      const cell = row.cells[column];
      const number = cell.dataset.v;
      return { row, key: number === undefined ? cell.textContent.trim() : Number(number) };
    });
    keyed.sort((a, b) => {
      const missing = (a.key === "") - (b.key === "");
      if (missing || a.key === b.key) return missing;
      if (typeof a.key === typeof b.key) return (a.key < b.key ? -1 : 1) * sign;
      return typeof a.key === "number" ? -1 : 1;
    });
    body.append(...keyed.map((entry) => entry.row));
  }
  for (const head of table.tHead.rows[0].cells) head.removeAttribute("aria-sort");
  table.tHead.rows[0].cells[column].setAttribute("aria-sort", direction);
}

for (const table of document.querySelectorAll("table.rows")) {
  table.tHead.addEventListener("click", (event) => {
    const head = event.target.closest("th");
    if (!head) return;
    const other = { ascending: "descending", descending: "ascending" };
    sortBy(table, head.cellIndex, other[head.getAttribute("aria-sort")] || head.dataset.first);
  });
}

// Blocks of superseded rows are folded until a reader opens them.
for (const body of document.querySelectorAll("tbody[data-folded]")) {
  const button = body.querySelector(".fold");
  const fold = (folded) => {
    body.classList.toggle("folded", folded);
    button.setAttribute("aria-expanded", String(!folded));
  };
  fold(true);
  button.addEventListener("click", () => fold(!body.classList.contains("folded")));
}

const boards = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("filters");
const KEPT = ["family", "env", "budget", "agent"];
const sections = [...document.querySelectorAll("section.board")];

// Hides columns by their place in each table: those that a reader unchecked, and of the others
// those that their board doesn't show at first.
const chosen = new Set();

function applyColumns() {
  const boxes = new Map([...form.querySelectorAll("[name=column]")].map((box) => [box.value, box]));
  const rules = [];
  document.querySelectorAll("table.rows").forEach((table, n) => {
    table.dataset.n = n;
    [...table.tHead.rows[0].cells].forEach((head, i) => {
      const { key } = head.dataset;
      const shown = chosen.has(key) ? boxes.get(key).checked : "shown" in head.dataset;
      if (!shown) rules.push(`[data-n="${n}"] tr:not(.title) > :nth-child(${i + 1})`);
    });
  });
  document.getElementById("hidden-columns").textContent = rules.length ? `${rules.join(",")}{display:none}` : "";
}

function applyFilters() {
  const wanted = Object.fromEntries(KEPT.map((name) => [name, form.elements[name].value.trim()]));
  const agent = wanted.agent.toLowerCase();
  let count = 0;
  for (const section of sections) {
    const fits = ["family", "env", "budget"].every(
      (name) => !wanted[name] || !(name in section.dataset) || section.dataset[name] === wanted[name],
    );
    let rows = 0;
    for (const row of section.querySelectorAll("tbody tr:not(.title)")) {
      row.hidden = agent !== "" && !row.querySelector("th").textContent.toLowerCase().includes(agent);
      rows += row.hidden ? 0 : 1;
    }
    section.hidden = !fits || rows === 0;
    if (!section.hidden && !section.classList.contains("reported")) count += 1;
  }
  document.getElementById("count").textContent = `${count} board${count === 1 ? "" : "s"}`;
  const kept = new URLSearchParams(KEPT.filter((name) => wanted[name]).map((name) => [name, wanted[name]]));
  try {
    history.replaceState(null, "", kept.size ? `#?${kept}` : location.pathname + location.search);
  } catch (error) {
    // Some viewers of local files forbid it; the filters work all the same.
  }
}

// Shows what the address names: a board that a filter hides, a block of an agent or data set.
function goToHash() {
  const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  target.closest("section").hidden = false;
  target.scrollIntoView();
}

if (form) {
  // All charts are drawn before the page scrolls, so that a link lands where it points.
  for (const place of document.querySelectorAll(".plots")) {
    drawBoard(place.closest("section"), boards[Number(place.dataset.board)]);
  }
  if (location.hash.startsWith("#?")) {
    for (const [name, value] of new URLSearchParams(location.hash.slice(2))) {
      if (KEPT.includes(name)) form.elements[name].value = value;
    }
  }
  // What fills forms may report a choice by `change` alone.
  for (const kind of ["input", "change"]) {
    form.addEventListener(kind, ({ target }) => {
      if (target.name !== "column") return applyFilters();
      chosen.add(target.value);
      return applyColumns();
    });
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  applyColumns();
  if (!location.hash || location.hash.startsWith("#?")) applyFilters();
  else document.getElementById("count").textContent = `${boards.length} boards`;
  goToHash();
  window.addEventListener("hashchange", goToHash);
  window.addEventListener("load", goToHash);
}
