"use strict";
// The page: it paints what the worker says. Whatever somebody types or the model writes is text, never markup.
(() => {
const $ = id => document.getElementById(id);
const about = JSON.parse($("model").textContent);
const worker = startWorker();
const opened = performance.now();

function startWorker() {
  const source = new Blob([$("worker").textContent], {type: "text/javascript"});
  return new Worker(URL.createObjectURL(source));
}

// ---- words and colours ------------------------------------------------------------------------------------

const signed = value => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
const UNSEEN = {" ": "space", "\n": "new line", "\t": "tab"};
const visible = text => UNSEEN[text] || `“${text.replaceAll("\n", "↵")}”`;

// 0: the low colour, 50: white (or black), 100: the high colour. `color-mix` takes both from the style sheet.
function colour(value) {
  const place = Math.max(-1, Math.min(1, value / about.limit));
  const end = place < 0 ? "var(--low)" : "var(--high)";
  return `color-mix(in srgb, ${end} ${Math.round(100 * Math.abs(place))}%, var(--middle))`;
}

function ground(values) { // of a character: one colour, or a stripe for each of its bytes
  const colours = values.map(value => value === undefined ? "transparent" : colour(value));
  if (new Set(colours).size === 1) return colours[0];
  const stripes = colours.map((c, i) => `${c} ${100 * i / colours.length}% ${100 * (i + 1) / colours.length}%`);
  return `linear-gradient(90deg, ${stripes.join(", ")})`;
}

const width = char => {
  const code = char.codePointAt(0);
  return code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
};

// Characters that the same tokens have coloured, side by side: {text, tokens, start in UTF-16 units}.
function runsOf(text, tokens) {
  const runs = [];
  let byte = 0;
  let unit = 0;
  for (const char of text) {
    const mine = tokens.slice(byte, byte + width(char));
    const last = runs[runs.length - 1];
    const joins = last && mine.every(t => t === mine[0]) && String(last.tokens) === String([mine[0]]);
    if (joins) last.text += char;
    else runs.push({text: char, tokens: [...new Set(mine)], bytes: [...mine], start: unit});
    byte += width(char);
    unit += char.length;
  }
  return runs;
}

// ---- reading ----------------------------------------------------------------------------------------------

const area = $("text");
const shown = {id: 0, text: "", values: [], tokens: [], runs: [], total: 0, done: false, probability: null};
let asked = 0;
let askedAt = 0;
let waiters = new Map();

// A byte order mark is no text, and half a surrogate pair is none either.
const asText = text => (text.toWellFormed ? text.toWellFormed() : text).replace(/^\ufeff/, "");

function ask(text) {
  asked += 1;
  askedAt = performance.now();
  worker.postMessage({kind: "text", id: asked, text: asText(text)});
  return asked;
}

function repaint() {
  const spans = shown.runs.map((run, i) => {
    const span = document.createElement("span");
    span.textContent = run.text;
    span.dataset.run = i;
    span.style.background = ground(run.bytes.map(t => t < 0 ? 0 : shown.values[t]));
    return span;
  });
  $("paint").replaceChildren(...spans, "\n");
  mark(shown.here);
}

function recolour(from) { // the runs that tokens from `from` on have coloured
  const spans = $("paint").children;
  shown.runs.forEach((run, i) => {
    if (run.tokens.some(t => t >= from)) spans[i].style.background = ground(run.bytes.map(t => shown.values[t]));
  });
}

// Until the worker answers, what stands before the edit keeps its colours.
function paintTyped(text) {
  let same = 0;
  while (same < text.length && text[same] === shown.text[same]) same++;
  const kept = shown.runs.filter(run => run.start + run.text.length <= same);
  const end = kept.length ? kept[kept.length - 1].start + kept[kept.length - 1].text.length : 0;
  const rest = {text: text.slice(end), tokens: [], bytes: [undefined], start: end};
  Object.assign(shown, {text, runs: rest.text ? [...kept, rest] : kept, here: -1});
  repaint();
}

function receive({id, done, tokens, values, start, total, probability, isCut}) {
  if (id !== asked) return;
  if (tokens) {
    const text = asText(area.value);
    Object.assign(shown, {id, text, values: [...values], tokens: [...tokens], total, done, here: -1});
    shown.runs = runsOf(text, tokens);
    repaint();
  } else {
    shown.values.push(...values);
    recolour(start);
  }
  shown.done = done;
  if (!done) return said(`Reading: ${shown.values.length} of ${total} pieces …`);
  Object.assign(shown, {probability, isCut});
  conclude();
}

function conclude() {
  const {values, probability, isCut} = shown;
  const nothing = probability === null;
  const last = values[values.length - 1];
  $("neuron").textContent = nothing ? "there is no text" : `${signed(last)} standard deviations`;
  $("probability").textContent = nothing ? "–" : `${Math.round(100 * probability)} % ${about.classes[1]}`;
  $("share").style.width = nothing ? "0" : `${100 * probability}%`;
  $("bar").classList.toggle("unknown", nothing);
  const milliseconds = Math.round(performance.now() - askedAt);
  const cut = isCut ? " The rest is too long to be read here." : "";
  said(`Read ${values.length} pieces; the last change took ${milliseconds} ms, on this computer alone.${cut}`);
  for (const [id, resolve] of waiters) {
    if (id > shown.id) continue;
    waiters.delete(id);
    resolve({values: [...valuesOfBytes()], neuron: last, probability});
  }
  showCursor();
}

function valuesOfBytes() { return shown.tokens.map(t => t < 0 ? 0 : shown.values[t]); }

function said(words) { $("status").textContent = words; }

// ---- single values ----------------------------------------------------------------------------------------

let expectation = 0;

function mark(i) {
  for (const old of $("paint").querySelectorAll(".here")) old.classList.remove("here");
  shown.here = i;
  if (i >= 0 && $("paint").children[i]) $("paint").children[i].classList.add("here");
}

function show(i) { // what is known about run i
  const run = shown.runs[i];
  if (!run || !run.tokens.length || i === shown.here) return;
  const token = run.tokens[run.tokens.length - 1];
  const value = token < 0 ? 0 : shown.values[token];
  if (value === undefined) return;
  mark(i);
  const change = token > 0 ? value - shown.values[token - 1] : 0;
  const name = document.createElement("b");
  name.textContent = visible(run.text);
  $("readout").replaceChildren(name, `: ${signed(value)} standard deviations, changed by ${signed(change)}. `);
  expectation += 1;
  worker.postMessage({kind: "expect", id: expectation, token});
}

function tellExpected({id, pieces}) {
  if (id !== expectation) return;
  const decoder = new TextDecoder();
  const words = pieces.map(([bytes, p]) => `${visible(decoder.decode(bytes))} ${Math.round(100 * p)} %`);
  $("readout").append(`Next it expects ${words.join(", ")}.`);
}

function runAt(unit) { return shown.runs.findIndex(run => unit < run.start + run.text.length); }

function showCursor() {
  if (document.activeElement !== area || !shown.runs.length) return;
  show(runAt(Math.max(0, area.selectionStart - 1)));
}

function showPointed({clientX, clientY}) { // the painted copy lies behind the textarea
  const hit = document.elementsFromPoint(clientX, clientY).find(element => element.dataset.run !== undefined);
  if (hit) show(Number(hit.dataset.run));
}

// ---- writing ----------------------------------------------------------------------------------------------

let drafts = 0;
let queue = [];
let current = null;

function describeDial(dial) {
  if (dial === null) return "left alone";
  return `held ${dial < 0 ? "down" : "up"} at ${signed(dial).replace(/\.?0+$/, "")}`;
}

const dialOf = value => Number(value) === 0 ? null : Number(value);

function settings(dial) {
  const temperature = Math.max(0, Number($("temperature").value) || 0);
  const seed = Number($("seed").value) || 0;
  return {prompt: asText($("prompt").value), dial, n: 120, seed, temperature, top_p: .8, stopAtEnd: true};
}

function newDraft(request) {
  const box = document.createElement("article");
  const title = document.createElement("h3");
  const paper = document.createElement("p");
  const held = request.dial === null ? "" : request.dial < 0 ? " held-down" : " held-up";
  box.className = "draft" + held;
  title.textContent = `The neuron ${describeDial(request.dial)}, seed ${request.seed}`;
  box.append(title, paper);
  $("drafts").prepend(box);
  while ($("drafts").children.length > 8) $("drafts").lastChild.remove();
  return {request, paper, tokens: [], resolve: request.resolve};
}

function writeNext() {
  const isBusy = Boolean(current);
  $("drafts").setAttribute("aria-busy", isBusy);
  for (const id of ["go", "both"]) $(id).disabled = isBusy;
  $("stop").disabled = !isBusy;
  if (isBusy || !queue.length) return;
  drafts += 1;
  current = newDraft(queue.shift());
  const {resolve, ...plain} = current.request;
  worker.postMessage({kind: "draft", id: drafts, settings: plain});
  writeNext();
}

// Bytes to text: what is no UTF-8 becomes a replacement character, as in `decode_aligned`.
function decoded(tokens) {
  const bytes = tokens.flatMap(({bytes, value, isPrompt}) => bytes.map(byte => ({byte, value, isPrompt})));
  const strict = new TextDecoder("utf-8", {fatal: true, ignoreBOM: true});
  const letters = [];
  for (let i = 0; i < bytes.length;) {
    const lead = bytes[i].byte;
    const n = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    let char = "\ufffd";
    let used = 1;
    try {
      char = strict.decode(Uint8Array.from(bytes.slice(i, i + n), b => b.byte));
      used = n;
    } catch { /* a broken character */ }
    letters.push({char, value: bytes[Math.min(i + used, bytes.length) - 1].value, isPrompt: bytes[i].isPrompt});
    i += used;
  }
  return letters;
}

const isFront = char => about.front.includes(char);

function paintDraft({paper, tokens}) {
  const letters = decoded(tokens);
  while (letters.length && letters[0].isPrompt && isFront(letters[0].char)) letters.shift();
  const spans = [];
  for (const {char, value, isPrompt} of letters) {
    const background = colour(value);
    const last = spans[spans.length - 1];
    if (last && last.colour === background && last.isPrompt === isPrompt) last.text += char;
    else spans.push({text: char, colour: background, isPrompt});
  }
  paper.replaceChildren(...spans.map(({text, colour, isPrompt}) => {
    const span = document.createElement("span");
    span.textContent = text;
    span.style.background = colour;
    if (isPrompt) span.className = "given";
    return span;
  }));
}

function receiveDraft({id, done, tokens}) {
  if (id !== drafts || !current) return;
  current.tokens.push(...tokens);
  paintDraft(current);
  if (done) finishDraft();
}

function finishDraft() {
  const {tokens, paper, resolve} = current;
  current = null;
  if (resolve) resolve({text: paper.textContent, ids: tokens.map(token => token.id)});
  writeNext();
}

function order(...dials) {
  queue.push(...dials.map(dial => settings(dial)));
  writeNext();
}

function stop() {
  queue = [];
  worker.postMessage({kind: "stop"});
  if (current) finishDraft();
}

function sayDial() { $("dial-said").textContent = describeDial(dialOf($("dial").value)); }

// ---- beginning --------------------------------------------------------------------------------------------

const receivers = {
  values: receive,
  draft: receiveDraft,
  expected: tellExpected,
  error: ({message}) => said(`This browser could not run the model: ${message}`),
  ready: () => {
    const seconds = ((performance.now() - opened) / 1000).toFixed(1);
    document.body.dataset.ready = seconds;
    said(`The model is there after ${seconds} s.`);
    ask(area.value);
    writeNext();
  },
};
worker.onmessage = ({data}) => receivers[data.kind](data);
worker.onerror = event => said(`This browser could not run the model: ${event.message}`);

function setText(text) {
  area.value = text;
  paintTyped(asText(area.value));
  return ask(area.value);
}

for (const [name, text] of about.examples) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = name;
  button.onclick = () => {
    setText(text);
    area.focus();
  };
  $("examples").append(button);
}
area.addEventListener("input", () => {
  paintTyped(asText(area.value));
  ask(area.value);
});
document.addEventListener("selectionchange", showCursor);
$("paper").addEventListener("pointermove", showPointed);
$("dial").addEventListener("input", sayDial);
$("write").addEventListener("submit", event => {
  event.preventDefault();
  order(dialOf($("dial").value));
});
$("both").addEventListener("click", () => {
  const size = Math.abs(Number($("dial").value)) || 3;
  order(-size, size);
});
$("stop").addEventListener("click", stop);
sayDial();
paintTyped(asText(area.value));
worker.postMessage({kind: "load", about: $("model").textContent, weights: $("weights").textContent});
$("weights").remove();

// For tests, and for pages that want to ask: both answer when the worker has.
window.sentnb = {
  read: text => new Promise(resolve => waiters.set(setText(text), resolve)),
  write: request => new Promise(resolve => {
    queue.push({...settings(null), ...request, resolve});
    writeNext();
  }),
};
})();
