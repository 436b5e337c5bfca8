// A layered graph: boxes at places that the kernel has computed, moved and enlarged here.
const SVG = "http://www.w3.org/2000/svg";
const LARGEST = 2.5, SMALLEST = 0.05, READABLE = 0.7; // enlargement; at the last one letters are 9 pixels high
const STEP = 1.25, PAD = 12; // of zooming; pixels between a box and the edge

const MARKS = { run: "●", dataset: "▤", file: "▤", content: "▤", model: "◆", evaluation: "▲", explanation: "▲", release: "★" };
const LIGHTS = [["", "nothing"], ["upstream", "what it came from"], ["downstream", "what it affects"], ["both", "both"]];

function html(tag, words = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(words)) {
    if (value === false || value == null) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function svg(tag, words) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(words)) made.setAttribute(name, value);
  return made;
}

// All that can be reached from a node, itself included.
function reach(start, next) {
  const found = new Set([start]), waiting = [start];
  while (waiting.length)
    for (const each of next.get(waiting.pop()) || []) if (!found.has(each)) (found.add(each), waiting.push(each));
  return found;
}

function connect(edges) {
  const sources = new Map(), results = new Map();
  const add = (map, key, value) => map.has(key) ? map.get(key).push(value) : map.set(key, [value]);
  for (const each of edges) (add(results, each.from, each.to), add(sources, each.to, each.from));
  return { sources, results };
}

function render({ model, el }) {
  el.classList.add("mlops", "mlops-graph");
  const name = `g${Math.random().toString(36).slice(2)}`; // of this view, for ids
  let place = { x: 0, y: 0, scale: 1 }, nodes = new Map(), ways = connect([]), buttons = new Map(), lines = [], here = "", listed = false, own = false; // own: somebody has moved the view

  const stage = html("div", { class: "stage" });
  const view = html("div", { class: "view", role: "group", "aria-describedby": `${name}-hint`, tabindex: "-1" }, stage);
  const outline = html("ol", { class: "outline", hidden: true, tabindex: "0" });
  const said = html("p", { class: "muted", role: "status" });
  const note = html("p", { class: "open" });
  const light = html("select", { onchange: () => set("highlight", light.value) },
    ...LIGHTS.map(([value, words]) => html("option", { value }, words)));
  const asList = html("button", { type: "button", "aria-pressed": "false", onclick: () => showList(!listed) }, "Show as list");
  const button = (words, label, act) => html("button", { type: "button", "aria-label": label, title: label, onclick: act }, words);
  const zooming = [button("+", "Zoom in", () => zoom(STEP)), button("−", "Zoom out", () => zoom(1 / STEP)), button("Fit", "Fit all into view", fit),
    button("Start", "Back to the start", () => focus(model.get("root")))];
  const hint = html("p", { class: "unseen", id: `${name}-hint` }, "Left and right arrow keys follow the edges to what a box came from and what came " +
    "from it, up and down go through the column, Enter opens, plus and minus zoom, 0 fits all into view, Home goes to the start.");
  el.append(html("div", { class: "bar", role: "toolbar", "aria-label": "View of the graph" }, ...zooming,
    html("label", {}, "Highlight ", light), asList), view, outline, note, said, hint);

  const set = (trait, value) => (model.set(trait, value), model.save_changes());
  const move = () => {
    stage.style.transform = `translate(${place.x}px, ${place.y}px) scale(${place.scale})`;
    view.classList.toggle("small-scale", place.scale < READABLE);
  };

  function zoom(factor, x = view.clientWidth / 2, y = view.clientHeight / 2) {
    own = true;
    const scale = Math.min(LARGEST, Math.max(SMALLEST, place.scale * factor)), by = scale / place.scale;
    place = { x: x - (x - place.x) * by, y: y - (y - place.y) * by, scale };
    move();
  }

  function fitted(wide, high) {
    const [width, height] = model.get("size");
    const scale = Math.min(1, Math.max(SMALLEST, Math.min((wide - 16) / width, (high - 16) / height)));
    return { x: (wide - width * scale) / 2, y: (high - height * scale) / 2, scale };
  }

  function fit() {
    place = fitted(view.clientWidth, view.clientHeight);
    own = true;
    move();
  }

  // Everything where it can be read so, else the start, whole and at its own size, in the middle as far as the picture reaches around it.
  function settle() {
    const wide = view.clientWidth, high = view.clientHeight, root = nodes.get(model.get("root"));
    own = false;
    if (!wide) return; // not in the page yet: the watcher will say when
    place = fitted(wide, high);
    if (place.scale < READABLE && root) {
      const scale = Math.min(1, (wide - 2 * PAD) / root.width);
      const within = (at, size, drawn) => (drawn < size ? (size - drawn) / 2 : Math.max(size - drawn, Math.min(0, size / 2 - at)));
      const [width, height] = model.get("size");
      place = { x: within(root.x * scale, wide, width * scale), y: within(root.y * scale, high, height * scale), scale };
    }
    move();
  }

  // Move the view so far that a box is in it.
  function reveal(node) {
    const half = [node.width / 2 * place.scale, node.height / 2 * place.scale];
    const inside = (at, size, half) => Math.max(half + PAD, Math.min(size - half - PAD, at));
    const x = node.x * place.scale + place.x, y = node.y * place.scale + place.y;
    place = { ...place, x: place.x + inside(x, view.clientWidth, half[0]) - x, y: place.y + inside(y, view.clientHeight, half[1]) - y };
    move();
  }

  function focus(id) {
    const target = buttons.get(id);
    if (!target) return;
    buttons.get(here)?.setAttribute("tabindex", "-1");
    target.setAttribute("tabindex", "0");
    here = id;
    own = true;
    reveal(nodes.get(id));
    target.focus({ preventScroll: true });
    view.scrollTo(0, 0);
  }

  const choose = (id) => (focus(id), set("chosen", id));

  // The neighbour that lies nearest in height: along the edges to the left and right, else in the same column.
  function step(key) {
    const from = nodes.get(here), near = (found) => found.sort((a, b) => Math.abs(a.y - from.y) - Math.abs(b.y - from.y))[0];
    const known = (ids) => (ids || []).map((id) => nodes.get(id)).filter(Boolean);
    if (key === "ArrowLeft") return near(known(ways.sources.get(here)));
    if (key === "ArrowRight") return near(known(ways.results.get(here)));
    const column = [...nodes.values()].filter((each) => each.column === from.column);
    return near(column.filter((each) => (key === "ArrowUp" ? each.y < from.y : each.y > from.y)));
  }

  const KEYS = { "+": () => zoom(STEP), "=": () => zoom(STEP), "-": () => zoom(1 / STEP), 0: fit, Home: () => focus(model.get("root")),
    Escape: () => set("highlight", "") };

  view.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = event.key.startsWith("Arrow"), next = arrow && here && step(event.key);
    if (!arrow && !KEYS[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    if (next) focus(next.id);
    else if (!arrow) KEYS[event.key]();
  });

  // The wheel scrolls the page until somebody has clicked into the graph.
  view.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !view.contains(document.activeElement)) return;
    event.preventDefault();
    const box = view.getBoundingClientRect();
    zoom(Math.exp(-Math.sign(event.deltaY) * Math.min(Math.abs(event.deltaY), 100) / 400), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });

  let drag = null;
  view.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    drag = { x: event.clientX, y: event.clientY, from: { ...place }, far: false };
    if (!event.target.closest("button")) view.focus({ preventScroll: true });
  });
  view.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const x = event.clientX - drag.x, y = event.clientY - drag.y;
    if (!drag.far && Math.hypot(x, y) < 4) return;
    if (!drag.far) view.setPointerCapture(event.pointerId);
    drag.far = own = true;
    view.classList.add("moving");
    place = { ...place, x: drag.from.x + x, y: drag.from.y + y };
    move();
  });
  const drop = () => (drag = null, view.classList.remove("moving"));
  for (const each of ["pointerup", "pointercancel"]) view.addEventListener(each, drop);

  const spoken = (node) => `${node.name}, ${node.word}${node.id === model.get("root") ? ", the start" : ""}`;

  function box(node) {
    const classes = ["node", node.kind.replace(/[^\w-]/g, "-"), node.bad ? "word-bad" : "", node.id === model.get("root") ? "root" : ""];
    const made = html("button", { type: "button", class: classes.filter(Boolean).join(" "), tabindex: "-1", title: spoken(node), onclick: () => choose(node.id),
      "aria-label": `${spoken(node)}; came from ${(ways.sources.get(node.id) || []).length}, led to ${(ways.results.get(node.id) || []).length}`,
      "data-node": node.id }, html("span", { class: "mark", "aria-hidden": "true" }, node.bad ? "✗" : MARKS[node.kind] || "■"),
      html("span", { class: "name" }, node.name), html("span", { class: "word" }, node.word));
    Object.assign(made.style, { left: `${node.x - node.width / 2}px`, top: `${node.y - node.height / 2}px`, width: `${node.width}px`,
      height: `${node.height}px` });
    return made;
  }

  function drawLines() {
    const [width, height] = model.get("size"), picture = svg("svg", { width, height, "aria-hidden": "true" }), written = new Map();
    for (const on of ["", "-on"]) {
      const marker = svg("marker", { id: `${name}${on}`, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 8, markerHeight: 8, orient: "auto",
        markerUnits: "userSpaceOnUse", class: on ? "on" : "" });
      marker.append(svg("path", { d: "M0 0L8 4L0 8Z", class: "head" }));
      picture.append(marker);
    }
    lines = model.get("edges").map((edge) => {
      const line = svg("path", { d: edge.way, class: edge.dashed ? "edge dashed" : "edge", "marker-end": `url(#${name})` });
      picture.append(line);
      return { edge, line };
    });
    for (const each of lines) { // edges of one relation that meet have one label
      const { x, y, words } = each.edge, key = `${x} ${y} ${words}`;
      if (!written.has(key)) {
        const text = svg("text", { x, y: y - 4, "text-anchor": "middle" });
        text.textContent = words;
        picture.append(text);
        written.set(key, text);
      }
      each.text = written.get(key);
    }
    return picture;
  }

  function drawList() {
    const ordered = [...nodes.values()].sort((a, b) => a.column - b.column || a.y - b.y), from = new Map();
    for (const each of model.get("edges")) {
      const source = nodes.get(each.from);
      if (source) from.set(each.to, [...(from.get(each.to) || []), `${source.name} (${each.words})`]);
    }
    outline.replaceChildren(...ordered.map((node) => html("li", {}, html("button", { type: "button", "data-node": node.id,
      "aria-pressed": String(node.id === model.get("chosen")), onclick: () => set("chosen", node.id) }, spoken(node)),
      html("span", { class: "from muted" }, from.has(node.id) ? `came from ${from.get(node.id).join(", ")}` : "came from nothing that is shown"))));
  }

  function showList(wanted) {
    listed = wanted;
    asList.setAttribute("aria-pressed", String(listed));
    outline.hidden = !listed;
    view.hidden = listed;
    for (const each of zooming) each.disabled = listed;
    if (listed) drawList();
  }

  function mark() {
    const chosen = model.get("chosen"), way = model.get("highlight"), on = new Set();
    light.value = way;
    if (way && nodes.has(chosen))
      for (const [each, next] of [["upstream", ways.sources], ["downstream", ways.results]])
        if (way === each || way === "both") for (const id of reach(chosen, next)) on.add(id);
    stage.classList.toggle("lit", on.size > 0);
    for (const [id, button] of buttons) {
      button.classList.toggle("on", on.has(id));
      button.setAttribute("aria-pressed", String(id === chosen));
    }
    for (const { text } of lines) text.classList.remove("on");
    for (const { edge, line, text } of lines) {
      const lit = on.has(edge.from) && on.has(edge.to);
      line.classList.toggle("on", lit);
      line.setAttribute("marker-end", `url(#${name}${lit ? "-on" : ""})`);
      if (lit) text.classList.add("on");
    }
    if (listed) drawList();
    const words = Object.fromEntries(LIGHTS)[way];
    said.textContent = !on.size ? `${nodes.size} boxes, from what was there first on the left to what came from it on the right`
      : `${on.size - 1} of ${nodes.size - 1} other boxes are highlighted: ${nodes.get(chosen).name} and ${way === "both" ? "all that it came from or affects" : words}`;
  }

  function draw() {
    const focused = view.contains(document.activeElement) && here, was = nodes.get(here), stays = own && shown === model.get("root");
    nodes = new Map(model.get("nodes").map((each) => [each.id, each]));
    ways = connect(model.get("edges"));
    buttons = new Map([...nodes.values()].map((each) => [each.id, box(each)]));
    stage.replaceChildren(drawLines(), ...buttons.values());
    view.style.height = `${model.get("height")}px`;
    view.setAttribute("aria-label", model.get("label"));
    outline.setAttribute("aria-label", model.get("label"));
    note.textContent = model.get("note");
    note.hidden = !model.get("note");
    here = nodes.has(here) ? here : nodes.has(model.get("chosen")) ? model.get("chosen") : nodes.has(model.get("root")) ? model.get("root") : [...nodes.keys()][0] || "";
    buttons.get(here)?.setAttribute("tabindex", "0");
    shown = model.get("root");
    const now = was && nodes.get(was.id);
    if (!stays) settle();
    else if (now) (place = { ...place, x: place.x + (was.x - now.x) * place.scale, y: place.y + (was.y - now.y) * place.scale }, move());
    if (focused && buttons.has(here)) buttons.get(here).focus({ preventScroll: true });
    mark();
  }

  let shown = "", waiting = 0;
  const later = () => (cancelAnimationFrame(waiting), (waiting = requestAnimationFrame(draw))); // several traits change at once
  const drawn = ["change:nodes", "change:edges", "change:root", "change:size", "change:note", "change:label", "change:height"];
  for (const each of drawn) model.on(each, later);
  const reach_chosen = () => {
    const id = model.get("chosen");
    if (nodes.has(id) && !view.contains(document.activeElement)) (own = own || id !== model.get("root"), reveal(nodes.get(id)), buttons.get(here)?.setAttribute("tabindex", "-1"),
      (here = id), buttons.get(id).setAttribute("tabindex", "0"));
    mark();
  };
  model.on("change:chosen", reach_chosen);
  model.on("change:highlight", mark);
  const watcher = new ResizeObserver(() => { // its size is known only once it is in the page, and changes with the panel beside it
    if (!own && view.clientWidth) settle();
  });
  draw();
  watcher.observe(view);
  requestAnimationFrame(() => own || settle());
  return () => {
    watcher.disconnect();
    cancelAnimationFrame(waiting);
    for (const each of drawn) model.off(each, later);
    model.off("change:chosen", reach_chosen);
    model.off("change:highlight", mark);
  };
}

export default { render };
