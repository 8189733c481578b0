// The front end of the neuron explorer: one module for the live widget and for exported pages.
// A view is plain data ({kind, ...}, arrays as base64). Where a kernel answers, `ask` fetches more of it.

// ---- small tools

const raw = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const floats = text => new Float32Array(raw(text).buffer);
const words32 = text => new Uint32Array(raw(text).buffer);
const words16 = text => new Uint16Array(raw(text).buffer);

// An element with attributes, listeners (on…) and children. Text always becomes a text node.
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, '');
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter(child => child != null && child !== false));
  return node;
}

function draw(tag, attributes = {}, ...children) {
  const node = document.createElementNS('http:' + '//www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const signed = (x, digits = 2) => Number.isFinite(x) ? (x < 0 ? '−' : '+') + Math.abs(x).toFixed(digits) : '—';
const percent = p => p >= .995 ? '>99 %' : p < .005 ? '<1 %' : Math.round(100 * p) + ' %';
const range = n => Array.from({length: n}, (_, i) => i);
const clip = (x, low, high) => Math.max(low, Math.min(high, x));
const mean = list => list.reduce((a, b) => a + b, 0) / list.length;
let names = 0;
const newId = () => `sentnb-${Date.now().toString(36)}-${names++}`;

// Call f once things have been quiet for so many milliseconds.
function later(f, wait) {
  let timer;
  return (...given) => { clearTimeout(timer); timer = setTimeout(() => f(...given), wait); };
}

// ---- text: what is drawn for each character, and how many bytes it has

const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/;
const NAMED = {' ': 'space', '\n': 'newline', '\t': 'tab', '\r': 'carriage return'};
const nBytes = code => code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
const point = c => 'U+' + c.codePointAt(0).toString(16).toUpperCase().padStart(4, '0');

// A sign for a character that shows nothing, or turns the line around.
function glyph(c) {
  const code = c.codePointAt(0);
  if (code < 32 && c !== '\n' && c !== '\t') return String.fromCodePoint(0x2400 + code);
  if (code === 127) return '\u2421';
  return UNSEEN.test(c) ? point(c) : c;
}

// The text in pieces that are drawn in one: [shown, bytes, name] each. An emoji of several code points stays whole.
function clusters(text) {
  const whole = /^[\x20-\x7e\n]*$/.test(text) || !globalThis.Intl?.Segmenter ? [...text]
    : Array.from(new Intl.Segmenter(undefined, {granularity: 'grapheme'}).segment(text), part => part.segment);
  const found = [];
  for (const part of whole) {
    const alone = [...part];
    const joined = alone.length > 1 && !UNSEEN.test(part.replaceAll('\u200d', ''));
    if (joined) found.push([part, alone.reduce((n, c) => n + nBytes(c.codePointAt(0)), 0), part]);
    else for (const c of alone) found.push([glyph(c), nBytes(c.codePointAt(0)), NAMED[c] || glyph(c)]);
  }
  return found;
}

// ---- a document: a text, its tokens, and what is known of them

function openDocument(data) {
  const doc = {...data};
  doc.bytes = new TextEncoder().encode(data.text);
  doc.pieces = data.pieces || [];
  doc.series = data.series.map(s => ({...s, values: floats(s.values)}));
  doc.bits = data.bits ? floats(data.bits) : new Float32Array(0);
  doc.piece = data.piece ? words16(data.piece) : new Uint16Array(0);
  doc.likely = data.likely ? words16(data.likely) : new Uint16Array(0);
  doc.chances = data.chances ? words16(data.chances) : new Uint16Array(0);
  doc.tokenOf = tokensOfBytes(words32(data.spans), data.lead, doc.bytes.length);
  return doc;
}

// The token of each byte, from the bytes of each token; -1 before the first.
function tokensOfBytes(spans, lead, n) {
  const tokenOf = new Int32Array(n).fill(-1);
  let at = lead;
  spans.forEach((length, token) => { tokenOf.fill(token, at, at + length); at += length; });
  return tokenOf;
}

const standardize = (x, s) => s.sign * (x - s.mean) / s.std;

// The standardised value at a byte; undefined while it has not been read.
function valueAt(doc, k, i) {
  const token = doc.tokenOf[i];
  const series = doc.series[k];
  if (token >= series.values.length) return undefined;
  return standardize(token < 0 ? 0 : series.values[token], series);
}

// ---- colours

const N_SHADES = 33;
const shadeOf = (x, limit) => Math.round((clip(x / limit, -1, 1) + 1) / 2 * (N_SHADES - 1));
const shadeClass = (x, limit) => x === undefined ? 'sn-wait' : 'sn-s' + shadeOf(x, limit);

function legend(series, limit) {
  const strip = make('span', {class: 'sn-strip', 'aria-hidden': 'true'},
    range(N_SHADES).map(k => make('span', {class: 'sn-s' + k})));
  const words = `${series.name}, in standard deviations: blue is negative, to ${signed(-limit, 0)}; ` +
    `the ground is 0 (a cell value of ${series.mean.toFixed(3)}); orange is positive, to ${signed(limit, 0)}. ` +
    'Values beyond have the end colours.';
  return make('p', {class: 'sn-legend'}, make('span', {'aria-hidden': 'true'}, signed(-limit, 0) + ' '), strip,
    make('span', {'aria-hidden': 'true'}, ' ' + signed(limit, 0)), make('br'), words);
}

// ---- the heat map: one span for each byte

class Heat {
  constructor(doc, {k = 0, limit = 3, label = '', value = null, onpoint = () => {}} = {}) {
    Object.assign(this, {doc, k, limit, onpoint, at: -1, spans: [], drawn: []});
    this.value = value || (i => valueAt(this.doc, this.k, i));
    this.text = make('pre', {class: 'sn-text', dir: 'auto', tabindex: 0, role: 'group',
      'aria-label': `${label || this.doc.series[k].name}; ${doc.bytes.length} bytes; arrow keys read the values`});
    this.live = make('div', {class: 'sn-hidden', 'aria-live': 'polite'});
    this.node = make('div', {class: 'sn-heat'}, this.text, this.live);
    this.text.addEventListener('pointerover', e => this.#over(e.target));
    this.text.addEventListener('click', e => this.#over(e.target, true));
    this.text.addEventListener('keydown', e => this.#key(e));
    this.paint();
  }

  // Draw a changed document: the spans of an unchanged beginning stay, and so do colours before byte `from`.
  paint(from = 0) {
    const next = clusters(this.doc.text);
    let same = 0, first = 0;
    while (same < next.length && same < this.drawn.length && next[same][0] === this.drawn[same][0]
      && next[same][1] === this.drawn[same][1]) first += next[same++][1];
    this.spans.splice(first).forEach(span => span.remove());
    const fresh = document.createDocumentFragment();
    for (const [shown, n] of next.slice(same)) {
      range(n).forEach(k => {
        const span = make('span', k ? {'data-part': k} : {});
        if (!k && shown === '\n') span.append(make('i', {'aria-hidden': 'true'}, '↵'), '\n');
        else if (!k) span.textContent = shown;
        span.at = this.spans.push(span) - 1;
        fresh.append(span);
      });
    }
    this.text.append(fresh);
    this.drawn = next;
    this.names = next.flatMap(([, n, name]) => Array(n).fill(name));
    this.starts = next.flatMap(([, n]) => range(n).map(k => [k, n]));
    if (this.at >= this.spans.length) this.at = -1;
    this.color(Math.min(from, first));
  }

  color(from = 0) {
    for (let i = from; i < this.spans.length; i++) {
      const x = this.value(i);
      const name = shadeClass(x, this.limit) + (this.starts[i][0] ? ' sn-bar' : this.names[i].startsWith('U+')
        || this.names[i].charCodeAt(0) >> 8 === 0x24 ? ' sn-sign' : '');
      if (this.spans[i].className !== name) this.spans[i].className = name;
    }
  }

  words(i) {
    const [k, n] = this.starts[i];
    const part = n > 1 ? `byte ${k + 1} of ${n}` : 'byte';
    return `${this.names[i]}, ${part} ${this.doc.bytes[i].toString(16).padStart(2, '0')}, ` +
      `value ${signed(this.value(i))}`;
  }

  mark(i, focus = false) {
    const before = this.spans[this.at];
    if (before) { before.removeAttribute('data-at'); before.removeAttribute('tabindex'); }
    this.at = i;
    const span = this.spans[i];
    if (!span) return;
    span.setAttribute('data-at', '');
    if (!focus) return;
    span.setAttribute('role', 'img');
    span.setAttribute('aria-label', this.words(i));
    span.tabIndex = -1;
    span.focus({preventScroll: false});
    this.live.textContent = `${i + 1} of ${this.spans.length}: ${this.words(i)}`;
  }

  #over(target, focus = false) {
    const span = target.at === undefined ? target.parentElement : target;
    if (span?.at === undefined) return;
    this.mark(span.at, focus);
    this.onpoint(span.at, this);
  }

  #key(e) {
    const last = this.spans.length - 1;
    const to = {ArrowRight: this.at + 1, ArrowLeft: this.at - 1, Home: 0, End: last}[e.key];
    if (to === undefined || last < 0 || e.ctrlKey || e.metaKey || e.altKey) return;
    e.preventDefault();
    this.mark(clip(to, 0, last), true);
    this.onpoint(this.at, this);
  }
}

// ---- the inspector: what is known of one byte

function inspector() {
  const node = make('aside', {class: 'sn-inspector', 'aria-label': 'the character that is pointed at'});
  const hint = 'Point at a character, or click it and use the arrow keys.';
  const empty = () => node.replaceChildren(make('p', {class: 'sn-faint'}, hint));
  const show = (heats, i) => {
    const {doc} = heats[0];
    const token = doc.tokenOf[i];
    const [k, n] = heats[0].starts[i];
    const rows = [['character', heats[0].names[i] + (n > 1 ? `, byte ${k + 1} of ${n}` : '')],
      ['byte', `0x${doc.bytes[i].toString(16).padStart(2, '0')}, ${i + 1} of ${doc.bytes.length}`]];
    for (const heat of heats) rows.push(...numbers(heat, i, heats.length > 1));
    if (token >= 0 && doc.piece.length > token) rows.push(['piece', doc.pieces[doc.piece[token]]]);
    if (Number.isFinite(doc.bits[token])) rows.push(['surprise', doc.bits[token].toFixed(2) + ' bits for the piece']);
    node.replaceChildren(make('dl', {}, rows.map(([name, value]) => [make('dt', {}, name), make('dd', {}, value)])),
      likeliest(doc, token) || '');
  };
  empty();
  return {node, show, empty};
}

function numbers(heat, i, several) {
  const x = heat.value(i);
  if (x === undefined) return [['value', 'not read yet']];
  const before = i ? heat.value(i - 1) : undefined;
  const name = several ? heat.short || heat.doc.series[heat.k].name : 'value';
  const rows = [[name, signed(x) + ' standard deviations']];
  if (before !== undefined) rows.push([several ? '' : 'change', signed(x - before) + ' from the byte before']);
  return rows;
}

function likeliest(doc, token) {
  const n = doc.bits.length ? doc.likely.length / doc.bits.length : 0;
  if (token < 0 || !n || token >= doc.bits.length) return null;
  const rows = range(n).map(k => {
    const p = doc.chances[token * n + k] / 65535;
    const bar = make('span', {class: 'sn-chance'});
    bar.style.width = `${100 * p}%`;
    return make('li', {}, make('code', {}, doc.pieces[doc.likely[token * n + k]]), make('span', {}, percent(p)), bar);
  });
  return [make('p', {class: 'sn-faint'}, 'likeliest next'), make('ol', {class: 'sn-next'}, rows)]
    .reduce((box, part) => { box.append(part); return box; }, make('div'));
}

// A text with its inspector beside it; several series or documents of one text stand side by side.
function readable(heats, onpoint = () => {}) {
  const panel = inspector();
  for (const heat of heats) {
    heat.onpoint = i => {
      heats.filter(other => other !== heat).forEach(other => other.mark(i));
      panel.show(heats, i);
      onpoint(i);
    };
  }
  const texts = make('div', {class: 'sn-side'}, heats.map(heat =>
    make('section', {}, heats.length > 1 ? make('h4', {}, heat.title || heat.doc.series[heat.k].name) : null, heat.node)));
  return {node: make('div', {class: 'sn-readable'}, texts, panel.node), panel};
}

// ---- view: texts

function textsView(view) {
  const docs = view.docs.map(openDocument);
  const parts = docs.map(doc => {
    const heats = doc.series.map((_, k) => new Heat(doc, {k, limit: view.limit, label: doc.title}));
    return make('section', {}, doc.title ? make('h3', {}, doc.title) : null, readable(heats).node);
  });
  return make('div', {}, parts, docs.length ? legends(docs[0].series, view.limit) : null);
}

const legends = (series, limit) => series.map(s => legend(s, limit));

// ---- theme, and the two ways in

// Dark where the notebook or the system is dark; follows a change.
function followTheme(root) {
  const system = matchMedia('(prefers-color-scheme: dark)');
  const host = document.body.dataset;
  const dark = () => 'jpThemeLight' in host ? host.jpThemeLight === 'false'
    : document.body.className.includes('vscode-') ? /vscode-(dark|high-contrast)/.test(document.body.className)
    : system.matches;
  const set = () => { root.dataset.theme = dark() ? 'dark' : 'light'; };
  const observer = new MutationObserver(set);
  observer.observe(document.body, {attributes: true, attributeFilter: ['class', 'data-jp-theme-light']});
  system.addEventListener('change', set);
  set();
  return () => { observer.disconnect(); system.removeEventListener('change', set); };
}

const VIEWS = {texts: textsView};

// Show a view in an element.
export function mount(root, view, ask = null) {
  root.classList.add('sentnb-explorer');
  root.replaceChildren(VIEWS[view.kind](view, ask));
  return followTheme(root);
}

// Show all views of a page: <div data-sentnb-view="ID"> and <script type="application/json" id="ID">.
export function mountAll() {
  for (const root of document.querySelectorAll('[data-sentnb-view]:not([data-ready])')) {
    root.dataset.ready = '1';
    try { mount(root, JSON.parse(document.getElementById(root.dataset.sentnbView).textContent)); }
    catch (error) { console.warn(error); }
  }
}

export default {
  render({model, el}) { return mount(el, model.get('view'), connect(model)); },
};
