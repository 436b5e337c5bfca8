// From values to places: ticks that fit, numbers as people read them, elements of SVG and HTML.
const SVG = "http://www.w3.org/2000/svg";

function node(name, attributes = {}, ...content) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value);
  made.append(...content);
  return made;
}

function shape(name, attributes = {}, ...content) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== undefined) made.setAttribute(key, value);
  made.append(...content);
  return made;
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const two = (value) => String(value).padStart(2, "0");

// as short as it can be told; up to five digits
function sayNumber(value) {
  if (!isNumber(value)) return value === null || value === undefined ? "no number" : String(value);
  const size = Math.abs(value);
  if (size && (size < 1e-4 || size >= 1e7)) return value.toExponential(3).replace(/\.?0+e/, "e").replace("e+", "e");
  if (Number.isInteger(value)) return value.toLocaleString("en-US");
  return String(Number(value.toPrecision(5)));
}

function saySeconds(value) {
  if (!isNumber(value)) return "";
  const sign = value < 0 ? "-" : "", size = Math.abs(value);
  if (size < 60) return `${sign}${Number(size.toFixed(size < 10 ? 2 : 1))} s`;
  const whole = Math.round(size), hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  if (!hours) return `${sign}${minutes}${whole % 60 ? `:${two(whole % 60)}` : ""} min`;
  return `${sign}${hours}${whole % 3600 ? `:${two(minutes)}` : ""}${whole % 60 ? `:${two(whole % 60)}` : ""} h`;
}

function sayTime(value, span = 0) {
  const when = new Date(value * 1000), day = `${two(when.getMonth() + 1)}-${two(when.getDate())}`;
  const clock = `${two(when.getHours())}:${two(when.getMinutes())}`;
  if (span > 3 * 86400) return `${when.getFullYear()}-${day}`;
  if (span > 86400) return `${day} ${clock}`;
  return span > 600 ? clock : `${clock}:${two(when.getSeconds())}`;
}

function sayPlace(value, kind) {
  if (kind === "seconds") return saySeconds(value);
  return kind === "time" ? `${sayTime(value, 4 * 86400)} ${sayTime(value)}` : sayNumber(value);
}

const CLOCK = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

function stepOf(span, count, kind) {
  const rough = span / Math.max(1, count), clock = kind !== "number" && rough > 0.5 && CLOCK.find((each) => each >= rough);
  if (clock) return clock;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 2.5, 5, 10].find((each) => rough <= each * power * (1 + 1e-9));
}

function between(low, high, step) {
  const found = [];
  for (let each = Math.ceil(low / step - 1e-9); each <= high / step + 1e-9 && found.length < 60; each++) found.push(Number((each * step).toPrecision(12)));
  return found;
}

function logTicks(low, high, count) {
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high)), every = Math.max(1, Math.ceil((last - first) / count));
  const parts = last - first <= 1 ? [1, 2, 3, 5, 7] : last - first <= count / 3 ? [1, 2, 5] : [1], found = [];
  for (let power = first; power <= last; power += every) for (const part of parts) found.push(Number((part * 10 ** power).toPrecision(12)));
  const inside = found.filter((each) => each >= low * (1 - 1e-9) && each <= high * (1 + 1e-9));
  return inside.length > 1 ? inside : [low, high];
}

// A scale: called with a value, it says the place; `back` says the value at a place
function scaleOf(values, start, end, { log = false, kind = "number", room = 60, pad = 0, range = null } = {}) {
  const known = values.filter((each) => isNumber(each) && (!log || each > 0)), turn = log ? Math.log10 : (each) => each;
  let low = Infinity, high = -Infinity;
  for (const each of known) { if (each < low) low = each; if (each > high) high = each; }
  if (low > high) [low, high] = log ? [1, 10] : [0, 1];
  if (range && range.length === 2 && (!log || range[0] > 0)) [low, high] = range;
  else if (low === high) [low, high] = log ? [low / 2, low * 2] : [low - (Math.abs(low) / 10 || 0.5), high + (Math.abs(high) / 10 || 0.5)];
  else if (pad) {
    const more = (turn(high) - turn(low)) * pad;
    [low, high] = log ? [low / 10 ** more, high * 10 ** more] : [low - more, high + more];
  }
  const [from, to] = [turn(low), turn(high)], count = Math.max(2, Math.floor(Math.abs(end - start) / room));
  const scale = (value) => start + ((turn(value) - from) / (to - from)) * (end - start);
  scale.back = (place) => { const found = from + ((place - start) / (end - start)) * (to - from); return log ? 10 ** found : found; };
  scale.takes = (value) => isNumber(value) && (!log || value > 0);
  scale.ticks = log ? logTicks(low, high, count) : between(low, high, stepOf(high - low, count, kind));
  scale.say = (value) => (kind === "seconds" ? saySeconds(value) : kind === "time" ? sayTime(value, high - low) : sayNumber(value));
  return Object.assign(scale, { low, high, log });
}

// The same for words: each has a place of its own
function wordScale(values, start, end) {
  const words = [...new Set(values.map(String))].sort((one, other) => one.localeCompare(other, undefined, { numeric: true }));
  const scale = (value) => start + ((words.indexOf(String(value)) + 0.5) / words.length) * (end - start);
  return Object.assign(scale, { ticks: words, say: (each) => shorten(each, 12), takes: (each) => words.includes(String(each)), words });
}

// what is positive and reaches over more than two powers of ten is drawn in powers of ten
function spreads(values) {
  const known = values.filter(isNumber);
  return known.length > 1 && Math.min(...known) > 0 && Math.max(...known) / Math.min(...known) > 100;
}

const shorten = (text, length) => (String(text).length > length ? `${String(text).slice(0, length - 1)}…` : String(text));

const MARKERS = ["M-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0", "M-3 -3H3V3H-3Z", "M0 -4L4 3H-4Z", "M0 -4.5L4.5 0L0 4.5L-4.5 0Z", "M-4 -3H4L0 4Z"];
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "14 4", "4 2 1 2 1 2"];

const marker = (place, x, y, size = 1) =>
  shape("path", { d: MARKERS[place % MARKERS.length], class: `marker colour-${(place % 8) + 1}`, transform: `translate(${x.toFixed(1)} ${y.toFixed(1)}) scale(${size})` });

// The lines of both axes with what they show; `left`, `right`, `top` and `bottom` are the sides of the area
function drawAxes(area, x, y, xTitle, yTitle) {
  const made = shape("g", { class: "axes" });
  for (const each of y.ticks) {
    const place = y(each);
    made.append(shape("line", { x1: area.left, x2: area.right, y1: place, y2: place, class: "grid" }),
                shape("text", { x: area.left - 6, y: place + 4, class: "end" }, y.say(each)));
  }
  let free = -Infinity; // no label lies on another
  for (const each of x.ticks) {
    const place = x(each), label = x.say(each), half = label.length * 3.2, middle = Math.min(place, area.right - half + 6);
    made.append(shape("line", { x1: place, x2: place, y1: area.bottom, y2: area.bottom + 4, class: "tick" }));
    if (middle - half > free) made.append(shape("text", { x: middle, y: area.bottom + area.under + 15, class: "middle" }, label));
    if (middle - half > free) free = middle + half + 8;
  }
  made.append(shape("line", { x1: area.left, x2: area.right, y1: area.bottom, y2: area.bottom, class: "tick" }),
              shape("text", { x: 2, y: 11, class: "title" }, yTitle + (y.log ? " (log scale)" : "")),
              shape("text", { x: area.right, y: area.bottom + area.under + 30, class: "title end" }, xTitle + (x.log ? " (log scale)" : "")));
  return made;
}

// as wide as the longest label at the left needs
const leftOf = (scale) => 14 + 6.3 * Math.max(...scale.ticks.map((each) => scale.say(each).length));
