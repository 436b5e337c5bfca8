// A form to be filled in and run. Texts go to the kernel as state, secrets only as messages, since state is saved.
const WAIT_MS = 250;
const STEPS = 1000;

const make = (tag, attributes = {}, ...content) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...content);
  return made;
};

// Between which numbers a slider goes, evenly or, where they are magnitudes apart, by their logarithm
const scale = ({ low, high, whole }) => {
  const byMagnitude = low > 0 && high / low >= 1000;
  const steps = whole && !byMagnitude ? Math.min(high - low, STEPS) : STEPS;
  const [from, to] = byMagnitude ? [Math.log(low), Math.log(high)] : [low, high];
  return {
    steps,
    value: (position) => {
      if (position <= 0) return String(low);
      if (position >= steps) return String(high);
      const at = from + ((to - from) * position) / steps;
      const value = byMagnitude ? Math.exp(at) : at;
      return String(whole ? Math.round(value) : Number(value.toPrecision(3)));
    },
    position: (text) => {
      const value = Number(text);
      if (text.trim() === "" || !Number.isFinite(value) || (byMagnitude && value <= 0)) return 0;
      const at = byMagnitude ? Math.log(value) : value;
      return Math.max(0, Math.min(steps, Math.round(((at - from) / (to - from)) * steps)));
    },
  };
};

const control = (field, id) => {
  const common = { id, name: field.name, "aria-describedby": `${id}-help ${id}-said`, "aria-required": field.required ? "true" : null };
  if (field.kind === "checkbox") return make("input", { ...common, type: "checkbox", "aria-required": null });
  if (field.kind === "lines") return make("textarea", { ...common, rows: 3, spellcheck: "false" });
  if (field.kind === "choice") {
    const first = field.text === "" ? [make("option", { value: "" }, field.hint ? `as the notebook says: ${field.hint}` : "choose")] : [];
    return make("select", common, ...first, ...field.choices.map((each) => make("option", { value: each }, each)));
  }
  const types = { date: "date", moment: "datetime-local", secret: "password" };
  return make("input", { ...common, type: types[field.kind] || "text", inputmode: field.kind === "number" ? "decimal" : null,
    placeholder: field.hint || null, autocomplete: field.kind === "secret" ? "new-password" : "off", spellcheck: "false",
    step: field.kind === "moment" ? "1" : null });
};

const row = (field, id, model, later) => {
  const input = control(field, id);
  const help = make("div", { id: `${id}-help`, class: "m-help" }, [field.help, field.type].filter(Boolean).join("; "));
  const said = make("div", { id: `${id}-said`, class: "m-said", "aria-live": "polite" });
  const label = make("label", { for: id }, field.name);
  if (field.required) label.append(make("span", { class: "m-required" }, " required"));
  const inputs = make("div", { class: "m-inputs" });
  let slider = null;
  let none = null;
  const sliding = field.kind === "number" && field.low !== null ? scale(field) : null;
  const put = (name, key, value) => {
    model.set(name, { ...model.get(name), [key]: value });
    later();
  };
  const enter = (text) => {
    if (field.kind === "secret") model.send({ secret: field.name, text });
    else put("texts", field.name, text);
  };
  if (sliding) {
    slider = make("input", { type: "range", min: 0, max: sliding.steps, step: 1, "aria-label": `${field.name}, slider` });
    slider.addEventListener("input", () => {
      input.value = sliding.value(Number(slider.value));
      slider.setAttribute("aria-valuetext", input.value);
      enter(input.value);
    });
    inputs.append(slider);
  }
  inputs.append(input);
  if (field.none !== null) {
    none = make("input", { type: "checkbox", id: `${id}-none` });
    none.addEventListener("change", () => {
      put("nones", field.name, none.checked);
      show();
    });
    inputs.append(make("label", { class: "m-none", for: `${id}-none` }, none, "none", make("span", { class: "unseen" }, ` for ${field.name}`)));
  }
  input.addEventListener(field.kind === "checkbox" || field.kind === "choice" ? "change" : "input", () => {
    enter(field.kind === "checkbox" ? String(input.checked) : input.value);
    if (slider) slider.value = sliding.position(input.value);
  });
  const show = () => {
    const text = model.get("texts")[field.name] ?? "";
    if (field.kind === "checkbox") input.checked = text === "true";
    else if (field.kind !== "secret" && input.value !== text && input !== input.getRootNode().activeElement) input.value = text;
    if (slider) {
      slider.value = sliding.position(text);
      slider.setAttribute("aria-valuetext", text);
    }
    const absent = Boolean(model.get("nones")[field.name]);
    if (none) none.checked = absent;
    for (const each of [input, slider]) if (each && none) each.disabled = absent;
    const problem = model.get("problems")[field.name] || "";
    said.textContent = problem;
    if (problem) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
  };
  show();
  return { element: make("div", { class: `m-field m-kind-${field.kind}` }, label, inputs, help, said), show, input };
};

function render({ model, el }) {
  el.classList.add("mlops-form");
  const number = Math.random().toString(36).slice(2); // each form has this module to itself, and could not count
  let rows = {};
  let timer = null;
  const now = () => {
    clearTimeout(timer);
    timer = null;
    model.save_changes();
  };
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(now, WAIT_MS);
  };
  const fields = make("div", { class: "m-fields" });
  const legend = make("legend", {});
  const note = make("p", { class: "muted m-note" });
  const command = make("code", { class: "m-command", tabindex: "0", role: "textbox", "aria-readonly": "true", "aria-label": "The same on a command line" });
  const copy = make("button", { type: "button" }, "Copy");
  const copied = make("span", { class: "muted", "aria-live": "polite" });
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(model.get("command"));
      copied.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(command);
      copied.textContent = "selected: press Ctrl-C";
    }
  });
  const begin = make("button", { type: "button", class: "m-begin" });
  begin.addEventListener("click", (event) => {
    if (event.detail > 1 || begin.ariaDisabled === "true") return; // a double click is meant once
    if (timer) now();
    model.send({ run: true, label: model.get("label"), texts: model.get("texts"), nones: model.get("nones") });
  });
  el.append(make("fieldset", {}, legend, note, fields), make("div", { class: "m-command-line" }, begin, command, copy, copied));
  fields.addEventListener("change", () => timer && now());

  const draw = () => {
    rows = Object.fromEntries(model.get("fields").map((each, at) => [each.name, row(each, `mlops-form-${number}-${at}`, model, later)]));
    fields.replaceChildren(...Object.values(rows).map((each) => each.element));
  };
  const show = () => Object.values(rows).forEach((each) => each.show());
  const words = () => {
    legend.textContent = model.get("label");
    note.textContent = model.get("note");
    note.hidden = !note.textContent;
    command.textContent = model.get("command");
    copied.textContent = "";
  };
  const state = () => {
    begin.textContent = model.get("action");
    begin.ariaDisabled = String(!model.get("ready") || model.get("busy")); // disabled, it would lose the focus
  };
  const hear = (message) => {
    rows[message.focus]?.input.focus();
    if (message.clear) el.querySelectorAll("input[type=password]").forEach((each) => (each.value = ""));
  };
  draw();
  words();
  state();
  model.on("change:fields", draw);
  model.on("change:texts change:nones change:problems", show);
  model.on("change:label change:note change:command", words);
  model.on("change:ready change:busy change:action", state);
  model.on("msg:custom", hear);
  return () => {
    if (timer) now();
    model.off("change:fields", draw);
    model.off("change:texts change:nones change:problems", show);
    model.off("change:label change:note change:command", words);
    model.off("change:ready change:busy change:action", state);
    model.off("msg:custom", hear);
  };
}

export default { render };
