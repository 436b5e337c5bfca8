// Launches in a list, the newest first, with what can be done with each, and the output of the chosen one.
const make = (tag, attributes = {}, ...content) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(name, value);
  made.append(...content);
  return made;
};
const CANCEL = ["Cancel", "Cancel now", "Kill"];
const HINTS = ["Lets what runs come to a clean end", "Interrupts what runs", "Ends the process at once"];

// What has ended since the last look, in words; of what had ended before anybody looked nothing is said
function endings(rows, before) {
  const known = new Map(before.map((row) => [row.id, row]));
  const newest = Math.max(...before.map((row) => row.created_at));
  return rows.filter((row) => row.over && (known.has(row.id) ? !known.get(row.id).over : row.created_at > newest))
    .map((row) => `${row.name} ${row.status}${row.said ? `: ${row.said}` : ""}`).join(". ");
}

function render({ model, el }) {
  el.classList.add("mlops-launches");
  const said = make("div", { class: "unseen", role: "status" });
  let before = null; // rows of the last look
  const list = make("ul", { "aria-label": "Launches" });
  const none = make("p", { class: "muted" }, "Nothing was launched from here yet.");
  const title = make("div", { class: "m-title" });
  const output = make("pre", { tabindex: "0", role: "region", "aria-label": "Output" });
  el.append(none, list, title, output, said);
  const items = new Map();

  const button = (id, act, text) => {
    const made = make("button", { type: "button", "data-act": act }, text);
    made.addEventListener("click", () => {
      if (act === "show") {
        model.set("chosen", id);
        model.save_changes();
      } else {
        made.disabled = true;
        model.send({ act, id });
      }
    });
    return made;
  };

  const item = (id) => {
    const parts = { status: make("span"), command: button(id, "show", ""), when: make("time", { class: "muted" }), said: make("div", { class: "bad" }),
      progress: make("progress"), words: make("span", { class: "muted" }), cancel: button(id, "cancel", ""), resume: button(id, "resume", "Resume") };
    parts.command.className = "m-command";
    const first = make("div", { class: "bar" }, parts.status, parts.command, parts.when);
    parts.second = make("div", { class: "bar" }, parts.progress, parts.words, parts.cancel, parts.resume);
    return { ...parts, element: make("li", {}, first, parts.second, parts.said) };
  };

  const fill = (parts, row) => {
    const chosen = model.get("chosen") === row.id;
    parts.status.className = `m-status ${row.kind}`;
    parts.status.textContent = `${row.mark} ${row.status}`;
    parts.command.textContent = row.command;
    parts.command.setAttribute("aria-pressed", String(chosen));
    parts.when.textContent = new Date(row.created_at * 1000).toLocaleString("sv").slice(0, 16); // 2026-03-01 12:00, here
    parts.progress.hidden = row.over || !row.total;
    parts.progress.max = row.total || 1;
    parts.progress.value = row.done;
    parts.progress.setAttribute("aria-label", `progress of ${row.command}`);
    parts.words.textContent = row.progress;
    parts.cancel.hidden = !row.alive;
    if (parts.cancels !== row.cancels) parts.cancel.disabled = false;
    parts.cancels = row.cancels;
    parts.cancel.textContent = CANCEL[Math.min(row.cancels, 2)];
    parts.cancel.title = HINTS[Math.min(row.cancels, 2)];
    parts.cancel.setAttribute("aria-label", `${parts.cancel.textContent}: ${row.command}`);
    parts.resume.hidden = !row.resume.length;
    parts.resume.setAttribute("aria-label", `Resume: ${row.command}`);
    parts.second.hidden = parts.progress.hidden && !row.progress && parts.cancel.hidden && parts.resume.hidden;
    parts.said.textContent = row.said;
    parts.said.hidden = !row.said;
    parts.element.classList.toggle("chosen", chosen);
  };

  const show = () => {
    const rows = model.get("rows");
    const ended = before && endings(rows, before);
    if (ended) said.textContent = ended;
    if (model.get("filled")) before = rows;
    none.hidden = rows.length > 0;
    for (const id of [...items.keys()]) {
      if (!rows.some((row) => row.id === id)) {
        items.get(id).element.remove();
        items.delete(id);
      }
    }
    rows.forEach((row, at) => {
      if (!items.has(row.id)) items.set(row.id, item(row.id));
      const parts = items.get(row.id);
      fill(parts, row);
      if (list.children[at] !== parts.element) list.insertBefore(parts.element, list.children[at] || null);
    });
    const chosen = rows.find((row) => row.id === model.get("chosen"));
    title.textContent = chosen ? `Output of ${chosen.command}` : "";
    title.hidden = output.hidden = !chosen;
  };

  const print = () => {
    const atEnd = output.scrollHeight - output.scrollTop - output.clientHeight < 30;
    output.textContent = model.get("output") || "Nothing was printed yet.";
    if (atEnd) output.scrollTop = output.scrollHeight;
  };
  const again = (message) => items.get(message.again) && ["cancel", "resume"].forEach((each) => (items.get(message.again)[each].disabled = false));
  show();
  print();
  model.on("change:rows change:chosen", show);
  model.on("change:output", print);
  model.on("msg:custom", again);
  return () => {
    model.off("change:rows change:chosen", show);
    model.off("change:output", print);
    model.off("msg:custom", again);
  };
}

export default { render };
