"use strict";
// A language model in plain JavaScript: bytes to numbers, cleaning, tokens, one recurrent layer, classifier.
// Each part does what the Python function named beside it does, in the same order, so that both can be compared.

// ---- bytes ------------------------------------------------------------------------------------------------

function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// All first bytes of the numbers come first, then all second bytes: so they are packed smaller.
function interleave(planes, width) {
  const count = planes.length / width;
  const bytes = new Uint8Array(planes.length);
  for (let k = 0; k < width; k++) {
    for (let i = 0; i < count; i++) bytes[i * width + k] = planes[k * count + i];
  }
  return bytes.buffer;
}

// The 65,536 numbers of half precision.
function halfNumbers() {
  const numbers = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const exponent = bits >> 10 & 31;
    const fraction = (bits & 1023) / 1024;
    const size = exponent ? (1 + fraction) * 2 ** (exponent - 15) : fraction * 2 ** -14;
    numbers[bits] = bits & 0x8000 ? -size : size;
  }
  return numbers;
}

function numbersOf(planes, width) { // width 2: half precision, 4: single
  const buffer = interleave(planes, width);
  if (width === 4) return new Float32Array(buffer);
  const halves = new Uint16Array(buffer);
  const table = halfNumbers();
  const numbers = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) numbers[i] = table[halves[i]];
  return numbers;
}

// ---- cleaning: sentnb.data.cleaning -----------------------------------------------------------------------

// What Python calls whitespace; JavaScript's \s has one character more and five fewer.
const SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const PATTERNS = {
  tags: /<[/!]?[a-zA-Z-][^<>]*>/gu,
  entities: /&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)/gu,
  newlines: /\n/gu,
  other_spaces: new RegExp(`(?! )[${SPACE}]`, "gu"),
  space_runs: /  +/gu,
  ends: new RegExp(`^[${SPACE}]+|(?<![${SPACE}])[${SPACE}]+$`, "gu"),
};
const BLANK = () => " ";

const length = text => [...text].length; // in characters, not in UTF-16 units

// html.unescape of one entity.
function unescapeEntity(entity, known) {
  const name = entity.slice(1);
  if (name[0] === "#") return numericEntity(name.slice(1).replace(/;$/, ""), known);
  if (Object.hasOwn(known.names, name)) return known.names[name];
  const points = [...name];
  for (let n = points.length - 1; n > 1; n--) {
    const start = points.slice(0, n).join("");
    if (Object.hasOwn(known.names, start)) return known.names[start] + points.slice(n).join("");
  }
  return entity;
}

function numericEntity(digits, known) {
  const code = /^[xX]/.test(digits) ? parseInt(digits.slice(1), 16) : parseInt(digits, 10);
  if (Object.hasOwn(known.replaced, code)) return known.replaced[code];
  if (code >= 0xd800 && code <= 0xdfff || code > 0x10ffff) return "\ufffd";
  if (known.dropped.includes(code)) return "";
  return String.fromCodePoint(code);
}

class Cleaner {
  constructor({rules, front, back, entities}) {
    const replacements = {entities: entity => unescapeEntity(entity, entities), ends: () => ""};
    this.rules = rules.map(name => ({pattern: PATTERNS[name], replace: replacements[name] || BLANK}));
    this.front = front;
    this.back = back;
  }

  // apply_rule_aligned: the text after one rule, and for each character where it came from.
  applyRule({pattern, replace}, text, origin) {
    const parts = [];
    const origins = [];
    let unit = 0;   // how far we are, in UTF-16 units
    let point = 0;  // ... and in characters
    for (const match of text.matchAll(pattern)) {
      const before = text.slice(unit, match.index);
      const start = point + length(before);
      const stop = start + length(match[0]);
      const written = replace(match[0]);
      const n = length(written);
      parts.push(before, written);
      while (point < start) origins.push(origin[point++]);
      for (let i = 0; i < n; i++) origins.push(origin[start + Math.floor(i * (stop - start) / n)]);
      unit = match.index + match[0].length;
      point = stop;
    }
    if (!parts.length) return [text, origin];
    while (point < origin.length) origins.push(origin[point++]);
    return [parts.join("") + text.slice(unit), origins];
  }

  // The cleaned text without pads, and for each character the place of its origin in `text`.
  align(text) {
    let body = text;
    let origin = [...text].map((_, i) => i);
    for (const rule of this.rules) [body, origin] = this.applyRule(rule, body, origin);
    return [body, origin];
  }

  body(text) { return this.align(text)[0]; }
}

const width = char => { // bytes of a character in UTF-8
  const code = char.codePointAt(0);
  return code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
};

function byteStarts(chars) {
  const starts = [];
  let at = 0;
  for (const char of chars) {
    starts.push(at);
    at += width(char);
  }
  return starts;
}

// byte_origins: for each byte of the cleaned body, the byte of the text behind it.
function byteOrigins(text, body, origin) {
  const chars = [...text];
  const starts = byteStarts(chars);
  const origins = [];
  let latest = 0;
  [...body].forEach((char, i) => {
    const kept = char === chars[origin[i]];
    for (let k = 0; k < width(char); k++) {
      latest = Math.max(latest, starts[origin[i]] + (kept ? k : 0));
      origins.push(latest);
    }
  });
  return origins;
}

// ---- tokens: sentnb.data.tokenizers -----------------------------------------------------------------------

const UTF8 = new TextEncoder();
const SPACE_SYMBOL = "\u2581"; // SentencePiece's sign for a space
const UNKNOWN = -1;
const UNKNOWN_PENALTY = 10;    // SentencePiece: the score of an unknown character lies so far below the lowest

class BytesTokenizer {
  constructor({offset, n_tokens}) {
    this.offset = offset;
    this.bytes = [...Array(n_tokens).keys()].map(id => id < offset ? [] : [id - offset]);
  }

  encode(text) { return [...UTF8.encode(text)].map(byte => byte + this.offset); }
}

class PieceTokenizer {
  constructor({algorithm, pieces, scores, normal, byte_ids}) {
    this.split = {unigram: this.splitUnigram, bpe: this.splitPairs, char: this.splitChars}[algorithm];
    this.byteIds = byte_ids;                       // number of the piece that spells each byte
    this.scores = Float32Array.from(scores);
    this.numbers = new Map();                      // piece -> number
    this.beginnings = new Set();                   // of pieces
    this.lowest = Infinity;
    const isNormal = new Set(normal);
    pieces.forEach((piece, number) => { if (isNormal.has(number)) this.learn(piece, number); });
    this.bytes = [[], ...pieces.map((piece, number) => isNormal.has(number) ? bytesOfPiece(piece) : [])];
    byte_ids.forEach((number, byte) => { this.bytes[number + 1] = [byte]; });
  }

  learn(piece, number) {
    this.numbers.set(piece, number);
    this.lowest = Math.min(this.lowest, this.scores[number]);
    let beginning = "";
    for (const char of piece) this.beginnings.add(beginning += char);
  }

  // Ids are numbers + 1. Spans between space symbols are split separately, and the symbol is spelled in bytes.
  encode(text) {
    const ids = [];
    text.split(SPACE_SYMBOL).forEach((span, i) => {
      if (i) ids.push(...this.spell(SPACE_SYMBOL));
      const chars = [...span.replaceAll(" ", SPACE_SYMBOL)];
      for (const [piece, number] of this.split(chars)) {
        if (number === UNKNOWN) ids.push(...this.spell(piece));
        else ids.push(number + 1);
      }
    });
    return ids;
  }

  spell(text) { return [...UTF8.encode(text)].map(byte => this.byteIds[byte] + 1); }

  number(piece) { return this.numbers.get(piece) ?? UNKNOWN; }

  splitChars(chars) { return chars.map(char => [char, this.number(char)]); }

  // The most probable sequence of pieces (Viterbi). Sums are rounded to single precision where SentencePiece does.
  splitUnigram(chars) {
    const n = chars.length;
    const best = new Float32Array(n + 1);
    const start = new Int32Array(n + 1).fill(-1);
    const chosen = new Int32Array(n + 1).fill(UNKNOWN);
    const offer = (from, to, number, score) => {
      const total = score + best[from];
      if (start[to] >= 0 && total <= best[to]) return;
      best[to] = total;
      start[to] = from;
      chosen[to] = number;
    };
    for (let from = 0; from < n; from++) {
      let piece = "";
      for (let to = from + 1; to <= n; to++) {
        piece += chars[to - 1];
        if (!this.beginnings.has(piece)) break;
        const number = this.number(piece);
        if (number !== UNKNOWN) offer(from, to, number, this.scores[number]);
      }
      if (this.number(chars[from]) === UNKNOWN) offer(from, from + 1, UNKNOWN, this.lowest - UNKNOWN_PENALTY);
    }
    const parts = [];
    for (let to = n; to > 0; to = start[to]) parts.push([chars.slice(start[to], to).join(""), chosen[to]]);
    return parts.reverse();
  }

  // Byte pair encoding: join the best pair, the leftmost of equals, until no pair is a piece.
  splitPairs(chars) {
    const parts = [...chars];
    const after = parts.map((_, i) => i + 1);
    const before = parts.map((_, i) => i - 1);
    const heap = new Heap((a, b) => b.score - a.score || a.left - b.left);
    const propose = (left, right) => {
      if (left < 0 || right >= parts.length) return;
      const number = this.number(parts[left] + parts[right]);
      if (number === UNKNOWN) return;
      heap.push({left, right, score: this.scores[number], size: parts[left].length + parts[right].length});
    };
    for (let i = 0; i + 1 < parts.length; i++) propose(i, i + 1);
    while (heap.items.length) {
      const {left, right, size} = heap.pop();
      const gone = !parts[left] || !parts[right] || parts[left].length + parts[right].length !== size;
      if (gone) continue;
      parts[left] += parts[right];
      parts[right] = "";
      after[left] = after[right];
      if (after[right] < parts.length) before[after[right]] = left;
      propose(before[left], left);
      propose(left, after[left]);
    }
    return parts.filter(part => part).map(part => [part, this.number(part)]);
  }
}

function bytesOfPiece(piece) { return [...UTF8.encode(piece.replaceAll(SPACE_SYMBOL, " "))]; }

// A binary heap; `compare` is negative where its first argument comes first.
class Heap {
  constructor(compare) {
    this.compare = compare;
    this.items = [];
  }

  push(item) {
    let at = this.items.push(item) - 1;
    while (at > 0) {
      const above = at - 1 >> 1;
      if (this.compare(this.items[above], this.items[at]) <= 0) break;
      this.swap(at, above);
      at = above;
    }
  }

  pop() {
    const first = this.items[0];
    const last = this.items.pop();
    if (!this.items.length) return first;
    this.items[0] = last;
    for (let at = 0;;) {
      let least = at;
      for (const below of [2 * at + 1, 2 * at + 2]) {
        if (below < this.items.length && this.compare(this.items[below], this.items[least]) < 0) least = below;
      }
      if (least === at) return first;
      this.swap(at, least);
      at = least;
    }
  }

  swap(i, j) { [this.items[i], this.items[j]] = [this.items[j], this.items[i]]; }
}

// ---- the model: sentnb.models.recurrent -------------------------------------------------------------------

// out += matrix @ x, four rows at a time.
function addProduct(out, matrix, x) {
  const n = x.length;
  const whole = out.length - out.length % 4;
  for (let row = 0, at = 0; row < whole; row += 4, at += 4 * n) {
    let a = 0, b = 0, c = 0, d = 0;
    for (let i = 0, j = at; i < n; i++, j++) {
      const value = x[i];
      a += matrix[j] * value;
      b += matrix[j + n] * value;
      c += matrix[j + 2 * n] * value;
      d += matrix[j + 3 * n] * value;
    }
    out[row] += a;
    out[row + 1] += b;
    out[row + 2] += c;
    out[row + 3] += d;
  }
  for (let row = whole; row < out.length; row++) {
    let sum = 0;
    for (let i = 0, j = row * n; i < n; i++, j++) sum += matrix[j] * x[i];
    out[row] += sum;
  }
}

// Weight norm: every row has the direction of `v` and the length `g`.
function normalized(g, v) {
  const n = v.length / g.length;
  const weight = new Float32Array(v.length);
  for (let row = 0; row < g.length; row++) {
    let square = 0;
    for (let i = row * n; i < (row + 1) * n; i++) square += v[i] * v[i];
    const scale = g[row] / Math.sqrt(square);
    for (let i = row * n; i < (row + 1) * n; i++) weight[i] = v[i] * scale;
  }
  return weight;
}

const sigmoid = x => 1 / (1 + Math.exp(-x));

class Model {
  constructor({config, tensors}, numbers) {
    this.tensors = {};
    let at = 0;
    for (const [name, size] of tensors) {
      this.tensors[name] = numbers.subarray(at, at + size);
      at += size;
    }
    for (const name of ["w_x", "w_h", "w_mx", "w_mh"]) this.fold(name);
    this.embeddingSize = config.embedding_size;
    this.hiddenSize = config.hidden_size;
    this.isMultiplicative = "w_mx" in this.tensors;
  }

  fold(name) {
    const {[`${name}.g`]: g, [`${name}.v`]: v} = this.tensors;
    if (g) this.tensors[name] = normalized(g, v);
  }

  start() { return {h: new Float32Array(this.hiddenSize), c: new Float32Array(this.hiddenSize)}; }

  embed(id) { return this.tensors.embedding.subarray(id * this.embeddingSize, (id + 1) * this.embeddingSize); }

  // mlstm_cell: one token later. The state before stays as it is.
  step(id, {h, c}) {
    const {w_x, w_h, w_mx, w_mh, bias} = this.tensors;
    const H = this.hiddenSize;
    const x = this.embed(id);
    let m = h;
    if (this.isMultiplicative) {
      const fromInput = new Float32Array(H);
      m = new Float32Array(H);
      addProduct(fromInput, w_mx, x);
      addProduct(m, w_mh, h);
      for (let k = 0; k < H; k++) m[k] *= fromInput[k];
    }
    const gates = Float32Array.from(bias); // i, f, o, u, H numbers each
    addProduct(gates, w_x, x);
    addProduct(gates, w_h, m);
    const after = this.start();
    for (let k = 0; k < H; k++) {
      const kept = sigmoid(gates[H + k]) * c[k];
      after.c[k] = kept + sigmoid(gates[k]) * Math.tanh(gates[3 * H + k]);
      after.h[k] = sigmoid(gates[2 * H + k]) * Math.tanh(after.c[k]);
    }
    return after;
  }

  // Head: scores of the token that follows.
  logits({h}) {
    const {projection, head, embedding, head_bias} = this.tensors;
    const logits = Float32Array.from(head_bias);
    let output = h;
    if (projection) {
      output = new Float32Array(this.embeddingSize);
      addProduct(output, projection, h);
    }
    addProduct(logits, head || embedding, output);
    return logits;
  }
}

// ---- drawing tokens: sentnb.models.sampling ---------------------------------------------------------------

// Uniform numbers between 0 and 1 from a seed (the generator "mulberry32").
function randomNumbers(seed) {
  let state = seed >>> 0;
  return () => {
    state = state + 0x6d2b79f5 >>> 0;
    let t = Math.imul(state ^ state >>> 15, 1 | state);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 4294967296;
  };
}

// The probabilities of all tokens but the pad, which is never drawn.
function softmax(logits, temperature) {
  let highest = -Infinity;
  for (let i = 1; i < logits.length; i++) highest = Math.max(highest, logits[i]);
  const p = new Float64Array(logits.length);
  let total = 0;
  for (let i = 1; i < p.length; i++) total += p[i] = Math.exp((logits[i] - highest) / temperature);
  return p.map(value => value / total);
}

function likeliest(p, n) {
  const order = [...p.keys()].sort((a, b) => p[b] - p[a]);
  return order.slice(0, n);
}

// Temperature 0 takes the likeliest token; top_p draws among the fewest that have so much probability together.
function draw(logits, {temperature, top_p}, random) {
  const p = softmax(logits, temperature || 1);
  const order = likeliest(p, p.length);
  if (!temperature) return order[0];
  let kept = 0;
  let total = 0;
  while (kept < order.length && total < top_p) total += p[order[kept++]];
  let left = random() * total;
  for (const id of order.slice(0, kept)) {
    left -= p[id];
    if (left <= 0) return id;
  }
  return order[kept - 1];
}

// ---- text to values: sentnb.models.lm, sentnb.tasks.classify ----------------------------------------------

const BLANK_BYTE = 32;
const startsWith = (bytes, start) => start.length > 0 && bytes[0] === start[0];
const endsSentence = bytes => [46, 33, 63].includes(bytes[bytes.length - 1]); // . ! ?

class Reader {
  constructor(about, numbers) {
    this.cleaner = new Cleaner(about.cleaning);
    const kind = about.tokenizer.algorithm === "bytes" ? BytesTokenizer : PieceTokenizer;
    this.tokenizer = new kind(about.tokenizer);
    this.model = new Model(about, numbers);
    this.neuron = about.neuron;
    this.classifier = about.classifier;
    this.startsWithPad = about.config.document_start === "pad";
    this.frontBytes = UTF8.encode(this.cleaner.front);
    this.backBytes = UTF8.encode(this.cleaner.back);
    this.joinsBlanks = this.tokenizer.bytes.some(bytes => bytes.length > 1 && bytes[0] === BLANK_BYTE);
    this.read = {ids: [], states: []};     // of the text before: what it begins with need not be read again
  }

  // token_ids
  ids(cleaned) {
    const ids = this.tokenizer.encode(cleaned);
    return this.startsWithPad ? [0, ...ids] : ids;
  }

  // What is read of a text, and for each of its UTF-8 bytes the token that colours it; -1: nothing was read yet.
  plan(text) {
    const [body, origin] = this.cleaner.align(text);
    const ids = this.ids(this.cleaner.front + body + this.cleaner.back);
    const tokenOf = [];                    // each cleaned byte, pads included
    ids.forEach((id, t) => {
      const counts = t > 0 || !this.startsWithPad;
      if (counts) for (let k = 0; k < this.tokenizer.bytes[id].length; k++) tokenOf.push(t);
    });
    return {body, ids, tokens: this.spread(text, body, origin, tokenOf)};
  }

  // spread_to_bytes, for the numbers of tokens instead of their values.
  spread(text, body, origin, tokenOf) {
    const front = this.frontBytes.length;
    const nBytes = UTF8.encode(text).length;
    const tokens = new Int32Array(nBytes).fill(-1);
    byteOrigins(text, body, origin).forEach((byte, k) => { tokens[byte] = tokenOf[front + k]; });
    const atStart = body ? front - 1 : front + this.backBytes.length - 1;
    let latest = atStart >= 0 ? tokenOf[atStart] : -1;
    for (let byte = 0; byte < nBytes; byte++) {
      if (tokens[byte] >= 0) latest = tokens[byte];
      else tokens[byte] = latest;
    }
    return tokens;
  }

  // Forget what another text had after the beginning that it shares with these ids.
  resume(ids) {
    const {ids: old, states} = this.read;
    let same = 0;
    while (same < old.length && same < ids.length && old[same] === ids[same]) same++;
    this.read = {ids: old.slice(0, same), states: states.slice(0, same)};
    return same;
  }

  // Read one token more.
  advance(id) {
    const {ids, states} = this.read;
    const before = states.length ? states[states.length - 1] : this.model.start();
    ids.push(id);
    states.push(this.model.step(id, before));
  }

  // Neuron.standardize of the state after a token
  value(t) { return this.standardize(this.read.states[t]); }

  standardize(state) {
    const {unit, sign, mean, std, state: which} = this.neuron;
    const values = which === "hidden" ? state.h : state.c;
    return sign * (values[unit] - mean) / std;
  }

  // classify: the probability of the second class after everything that was read.
  probability() {
    const {pool, state: which, weights, intercept} = this.classifier;
    const states = this.read.states.map(({h, c}) => which === "hidden" ? h : c);
    const H = this.model.hiddenSize;
    let logOdds = intercept;
    for (const [column, weight] of weights) {
      const unit = column % H;
      const isMean = pool[Math.floor(column / H)] === "mean";
      logOdds += weight * (isMean ? mean(states, unit) : states[states.length - 1][unit]);
    }
    return sigmoid(logOdds);
  }

  // The likeliest continuations after a token, with their probabilities.
  expected(t, n) {
    const p = softmax(this.model.logits(this.read.states[t]), 1);
    return likeliest(p, n).map(id => [Uint8Array.from(this.tokenizer.bytes[id]), p[id]]);
  }

  // prompt_tokens
  promptIds(prompt) {
    const body = this.cleaner.body(prompt);
    const ids = this.ids(this.cleaner.front + body);
    const last = this.tokenizer.bytes[ids[ids.length - 1]];
    const isBlank = ids.length > 1 && last.length === 1 && last[0] === BLANK_BYTE;
    if (isBlank && !body && this.joinsBlanks) ids.pop();
    return ids.length ? ids : [0];
  }

  // DocumentEnd: does this token stand behind the text?
  endsDocument(before, id) {
    const bytes = this.tokenizer.bytes[id];
    if (startsWith(bytes, this.frontBytes)) return true;
    const isBack = this.backBytes.length > 0 && String(bytes) === String([...this.backBytes]);
    return isBack && this.joinsBlanks && endsSentence(this.tokenizer.bytes[before]);
  }

  // sample: token after token, each as {bytes, value, isPrompt}. `dial`: where the neuron is held, or null.
  * write({prompt, dial, n, seed, temperature, top_p, stopAtEnd}) {
    const {unit, sign, mean, std} = this.neuron;
    const random = randomNumbers(seed);
    let state = this.model.start();
    let before = 0;
    for (const id of this.promptIds(prompt)) {
      state = this.model.step(id, state);
      yield {id, bytes: this.tokenizer.bytes[id], value: this.standardize(state), isPrompt: true};
      before = id;
    }
    for (let i = 0; i < n; i++) {
      const logits = this.model.logits(state);
      if (dial !== null) state.c[unit] = mean + sign * dial * std;
      const id = draw(logits, {temperature, top_p}, random);
      if (stopAtEnd && this.endsDocument(before, id)) return;
      state = this.model.step(id, state);
      yield {id, bytes: this.tokenizer.bytes[id], value: this.standardize(state), isPrompt: false};
      before = id;
    }
  }
}

function mean(states, unit) {
  let sum = 0;
  for (const state of states) sum += state[unit];
  return sum / states.length;
}
