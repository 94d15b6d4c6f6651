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

const boards = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("filters");
const KEPT = ["family", "env", "budget", "agent"];

function applyFilters() {
  const wanted = Object.fromEntries(KEPT.map((name) => [name, form.elements[name].value.trim()]));
  const agent = wanted.agent.toLowerCase();
  document.body.classList.toggle("all", form.elements.more.checked);
  let count = 0;
  for (const section of document.querySelectorAll("section.board")) {
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
  const told = new URLSearchParams(KEPT.filter((name) => wanted[name]).map((name) => [name, wanted[name]]));
  try {
    history.replaceState(null, "", told.size ? `#?${told}` : location.pathname + location.search);
  } catch (error) {
    // Some viewers of local files forbid it; the filters work all the same.
  }
}

if (location.hash.startsWith("#?")) {
  for (const [name, value] of new URLSearchParams(location.hash.slice(2))) {
    if (KEPT.includes(name)) form.elements[name].value = value;
  }
}
// Some tell of a choice by `change` alone.
for (const kind of ["input", "change"]) form.addEventListener(kind, applyFilters);
form.addEventListener("submit", (event) => event.preventDefault());
if (!location.hash || location.hash.startsWith("#?")) applyFilters();
else document.getElementById("count").textContent = `${boards.length} boards`;

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    watcher.unobserve(entry.target);
    drawBoard(entry.target, boards[Number(entry.target.querySelector(".plots").dataset.board)]);
  }
}, { rootMargin: "600px" });
for (const place of document.querySelectorAll(".plots")) watcher.observe(place.closest("section"));
