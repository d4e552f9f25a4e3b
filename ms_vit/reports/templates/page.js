// Tables whose heads are buttons sort by them; a box above one shows only the rows with what is typed.
"use strict";

function valueOf(row, column) {
  const cell = row.cells[column];
  return cell.classList.contains("n") ? (cell.textContent ? Number(cell.textContent.replaceAll(",", "")) : -Infinity)
    : cell.textContent.toLowerCase();
}

for (const button of document.querySelectorAll("table.sorted th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...body.rows].sort((a, b) => {
      const left = valueOf(a, head.cellIndex), right = valueOf(b, head.cellIndex);
      return (left < right ? -1 : left > right ? 1 : 0) * (up ? 1 : -1);
    });
    body.append(...rows);
  });
}

for (const box of document.querySelectorAll("input[data-filters]")) {
  const table = document.getElementById(box.dataset.filters);
  box.addEventListener("input", () => {
    const wanted = box.value.toLowerCase();
    for (const row of table.tBodies[0].rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
}
