// Shows a page of PICTURES, [file, thumbnail, attention or null, [[class, probability], ...]], by the filters.
"use strict";

const EACH = 100, get = (id) => document.getElementById(id);
const told = PICTURES.map(([file]) => {
  try { return decodeURIComponent(file); } catch { return file; }       // a name that isn't UTF-8
});
let start = 0;

const counts = CLASSES.map(() => 0);
for (const picture of PICTURES) counts[picture[3][0][0]] += 1;
CLASSES.map((name, index) => [name, index]).filter(([, index]) => counts[index]).sort().forEach(([name, index]) => {
  get("class").append(new Option(`${name} (${counts[index].toLocaleString("en")})`, index));
});

function chosen() {
  const of = get("class").value, from = Number(get("from").value) / 100, to = Number(get("to").value || 100) / 100;
  const file = get("file").value.toLowerCase(), order = get("order").value;
  const found = [...PICTURES.keys()].filter((at) => {
    const [name, probability] = PICTURES[at][3][0];
    return (of === "" || name === Number(of)) && probability >= from && probability <= to
      && told[at].toLowerCase().includes(file);
  });
  const sure = (at) => PICTURES[at][3][0][1];
  if (order) found.sort((a, b) => (order === "up" ? 1 : -1) * (sure(a) - sure(b)));
  return found;
}

function link(address, child) {
  const made = document.createElement("a");
  made.href = address;
  made.append(child);
  return made;
}

function tile(at) {
  const [file, thumbnail, attention, answers] = PICTURES[at];
  const item = document.createElement("li"), picture = new Image(), list = document.createElement("ol");
  picture.src = thumbnail;
  picture.alt = `${CLASSES[answers[0][0]]}: ${told[at]}`;
  picture.loading = "lazy";
  for (const [index, probability] of answers) {
    const line = document.createElement("li");
    line.textContent = `${CLASSES[index]} ${(100 * probability).toFixed(1)} %`;
    list.append(line);
  }
  const name = document.createElement("span");
  name.textContent = told[at];
  name.className = "soft";
  item.append(link(file, picture), list, name);
  if (attention) item.append(document.createElement("br"), link(attention, "attention"));
  return item;
}

function show() {
  const found = chosen();
  start = Math.max(0, Math.min(start, EACH * Math.floor((found.length - 1) / EACH)));
  const part = found.slice(start, start + EACH);
  get("pictures").replaceChildren(...part.map(tile));
  const number = (value) => value.toLocaleString("en");
  get("told").textContent = found.length
    ? `${number(start + 1)} to ${number(start + part.length)} of ${number(found.length)}` : "none of the pictures";
  get("before").disabled = start === 0;
  get("next").disabled = start + EACH >= found.length;
}

for (const id of ["class", "from", "to", "file", "order"]) get(id).addEventListener("input", () => { start = 0; show(); });
get("before").addEventListener("click", () => { start -= EACH; show(); });
get("next").addEventListener("click", () => { start += EACH; show(); });
document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
show();
