"use strict";
// The worker: it owns the model, answers one question at a time, and drops a text as soon as a newer one comes.

const SLICE = 12;            // milliseconds of work between two looks at the letter box
const LONGEST = 6000;        // tokens of a text that are read; each keeps its state, 6 kB for 768 units
let reader = null;
let latest = {text: 0, draft: 0};

const pause = new MessageChannel();
let resumeWork = null;
pause.port1.onmessage = () => resumeWork();
function lookAround() {      // let messages that wait be handled
  return new Promise(resolve => {
    resumeWork = resolve;
    pause.port2.postMessage(0);
  });
}

async function load({about, weights}) {
  const packed = await inflate(bytesOf(weights));
  const described = JSON.parse(about);
  reader = new Reader(described, numbersOf(packed, described.width));
  postMessage({kind: "ready"});
}

async function readText({id, text}) {
  const {body, ids, tokens} = reader.plan(text);
  const isCut = ids.length > LONGEST;
  if (isCut) ids.length = LONGEST;
  const same = reader.resume(ids);
  const values = ids.slice(0, same).map((_, t) => reader.value(t));
  let sent = 0;
  const send = done => {
    const ending = done ? {probability: body.trim() ? reader.probability() : null, isCut} : {};
    const part = {values: Float32Array.from(values.slice(sent)), start: sent, total: ids.length};
    postMessage({kind: "values", id, done, tokens: sent ? null : tokens, ...part, ...ending});
    sent = values.length;
  };
  let began = performance.now();
  for (let t = same; t < ids.length; t++) {
    reader.advance(ids[t]);
    values.push(reader.value(t));
    if (performance.now() - began < SLICE) continue;
    send(false);
    await lookAround();
    if (latest.text !== id) return;
    began = performance.now();
  }
  send(true);
}

async function writeDraft({id, settings}) {
  let began = performance.now();
  let tokens = [];
  const send = done => {
    postMessage({kind: "draft", id, done, tokens});
    tokens = [];
  };
  for (const token of reader.write(settings)) {
    tokens.push(token);
    if (performance.now() - began < 3 * SLICE) continue;
    send(false);
    await lookAround();
    if (waiting.text) await readText(takeText());   // what somebody types does not wait for a draft
    if (latest.draft !== id) return;
    began = performance.now();
  }
  send(true);
}

function takeText() {
  const {text} = waiting;
  waiting.text = null;
  return text;
}

// One job at a time: texts go before drafts, and of several texts only the newest counts.
let waiting = {};
let isBusy = false;
async function work() {
  if (isBusy || !reader) return;
  isBusy = true;
  while (waiting.text || waiting.draft) {
    const {draft} = waiting;
    if (waiting.text) {
      await readText(takeText());
    } else {
      waiting.draft = null;
      await writeDraft(draft);
    }
  }
  isBusy = false;
}

function expect({id, token}) {
  if (token < reader.read.states.length) postMessage({kind: "expected", id, pieces: reader.expected(token, 4)});
}

onmessage = async ({data}) => {
  try {
    if (data.kind === "load") await load(data);
    if (data.kind === "expect" && reader) return expect(data);
    if (data.kind === "stop") latest.draft = 0;
    if (data.kind === "text" || data.kind === "draft") {
      latest[data.kind] = data.id;
      waiting[data.kind] = data;
    }
    await work();
  } catch (error) {
    isBusy = false;
    postMessage({kind: "error", message: String(error && error.message || error)});
  }
};
