// Pictures that are chosen, dropped or pasted go to /predict one by one; what it names is shown beside each.
// Whatever comes from files or from the model is set as text, never as HTML.

const AT_ONCE = 4;          // requests; the server makes batches of them
const MOST = 64;            // pictures of a choice: each stays in the page's memory
const PATIENCE = 20;        // times that a busy server is asked again
const TINY = 96;            // pixels: what is smaller is shown as squares, as the network sees it

const at = (id) => document.getElementById(id);
const input = at("image"), list = at("list"), status = at("status");
const waiting = [];
let working = 0, named = 0, failed = 0, of = 0, server = {};

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
const percent = (probability) => probability < 0.0005 ? "< 0.1 %" : `${(100 * probability).toFixed(1)} %`;
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

async function introduce() {
  server = await (await fetch("health")).json();
  const [height, width] = server.image_size;
  at("model").textContent = `${server.model}: ${server.classes.toLocaleString("en")} classes, `
    + `pictures seen as ${width} × ${height}`;
  document.title = `${server.model} – ms-vit`;
  at("looking").hidden = !server.attention;
  at("limits").textContent = `${server.types.join(", ")}, up to ${megabytes(server.max_bytes)} each. `
    + "They go to this server, and nowhere else.";
}

function take(files) {
  const chosen = [...files].slice(0, MOST);
  if (!chosen.length) return;
  at("answers").parentElement.hidden = false;
  if (!working) named = failed = of = 0;
  for (const file of chosen.reverse()) waiting.unshift({file, card: card(file)});     // the first stands on top
  of += chosen.length;
  status.textContent = files.length > MOST
    ? `${MOST} pictures at once; the other ${files.length - MOST} are left out.` : "Looking …";
  while (working < AT_ONCE && waiting.length) work();
}

async function work() {
  working++;
  while (waiting.length) {
    const {file, card} = waiting.shift();
    try {
      const {predictions, attention} = await ask(file);
      show(card, predictions);
      if (attention) look(card, attention, predictions[0].name);
      named++;
      tell(`${predictions[0].name}, ${percent(predictions[0].probability)}`);
    } catch (error) {
      fail(card, error.message);
      failed++;
      tell(error.message);
    }
  }
  working--;
}

async function ask(file) {
  if (file.size > server.max_bytes) throw new Error(`It has ${megabytes(file.size)}, too much for this server.`);
  const form = new FormData();
  form.append("image", file);
  for (let times = 0; ; times++) {
    let response;
    try {
      response = await fetch(`predict?attention=${Number(at("attention").checked)}`, {method: "POST", body: form});
    } catch {
      throw new Error("The server doesn't answer; is it still running?");
    }
    if (response.status === 503 && times < PATIENCE) {
      await pause(Number(response.headers.get("Retry-After")) || 1);
      continue;
    }
    const told = await response.json();
    if (!response.ok) throw new Error(told.error);
    return told.answers[0];
  }
}

function card(file) {
  const article = at("answer").content.firstElementChild.cloneNode(true);
  const pictures = article.querySelector(".pictures"), image = article.querySelector("img");
  article.querySelector("h3").textContent = file.name || "pasted picture";
  article.querySelector(".note").textContent = "…";
  article.setAttribute("aria-busy", "true");
  image.alt = `The picture ${file.name}`;
  image.onload = () => image.classList.toggle("tiny", Math.max(image.naturalWidth, image.naturalHeight) < TINY);
  image.onerror = () => pictures.classList.add("none");       // of a type that this browser doesn't show
  image.src = URL.createObjectURL(file);
  list.prepend(article);
  return article;
}

function show(article, predictions) {
  article.removeAttribute("aria-busy");
  article.querySelector(".note").remove();
  article.querySelector("ol").append(...predictions.map((found) => {
    const item = document.createElement("li"), track = part("track", ""), bar = document.createElement("span");
    bar.style.width = `${Math.max(0.5, 100 * found.probability)}%`;
    track.setAttribute("aria-hidden", "true");
    track.append(bar);
    const name = part("name", found.name);
    name.dir = "auto";
    if (found.id !== found.name) name.title = found.id;
    item.append(name, part("percent", percent(found.probability)), track);
    return item;
  }));
}

function look(article, drawn, name) {
  const figure = document.createElement("figure"), image = document.createElement("img");
  const caption = document.createElement("figcaption");
  image.src = drawn;
  image.alt = "The picture as the network saw it, brighter where it speaks for the answer";
  caption.textContent = `What speaks for “${name}”`;
  caption.dir = "auto";
  figure.append(image, caption);
  const pictures = article.querySelector(".pictures");
  pictures.classList.remove("none");
  pictures.append(figure);
  article.classList.add("looked");
}

function part(kind, text) {
  const made = document.createElement("span");
  made.className = kind;
  made.textContent = text;
  return made;
}

function fail(article, why) {
  article.removeAttribute("aria-busy");
  article.classList.add("failed");
  article.querySelector("ol").remove();
  article.querySelector(".note").textContent = why;
}

// Of one picture its answer, of several how far they are: a screen reader reads it out.
function tell(answer) {
  status.textContent = of === 1 ? answer
    : `${named + failed} of ${of} pictures done${failed ? `, ${failed} without an answer` : ""}.`;
}

input.addEventListener("change", () => {
  take(input.files);
  input.value = "";         // the same picture may be chosen again
});
addEventListener("paste", (event) => take(event.clipboardData.files));
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  take(event.dataTransfer.files);
});

await introduce();
