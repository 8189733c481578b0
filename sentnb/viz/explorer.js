// The front end of the neuron explorer: one module for the live widget and for exported pages.
// A view is plain data ({kind, ...}, arrays as base64). Where a kernel answers, `ask` fetches more of it.

// ---- small tools

const raw = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const floats = text => new Float32Array(raw(text).buffer);
const words32 = text => new Uint32Array(raw(text).buffer);
const words16 = text => new Uint16Array(raw(text).buffer);
// Bits of surprise, in 256ths; the last number stands for unknown.
const bitsOf = text => Float32Array.from(words16(text), n => n === 65535 ? NaN : n / 256);

// Data that was compressed to travel in a page.
export async function unpack(text) {
  const open = new Blob([raw(text)]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Response(open).json();
}

// An element with attributes, listeners (on…) and children. Text always becomes a text node.
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, '');
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter(child => child != null && child !== false));
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
  return UNSEEN.test(c) ? point(c) : c;
}

// The text in pieces that are drawn in one: [shown, bytes, name, stands for something unseen] each. An emoji of several code points stays whole.
function clusters(text) {
  const whole = /^[\x20-\x7e\n]*$/.test(text) || !globalThis.Intl?.Segmenter ? [...text]
    : Array.from(new Intl.Segmenter(undefined, {granularity: 'grapheme'}).segment(text), part => part.segment);
  const found = [];
  for (const part of whole) {
    const alone = [...part];
    const joined = alone.length > 1 && !UNSEEN.test(part.replaceAll('\u200d', ''));
    if (joined) found.push([part, alone.reduce((n, c) => n + nBytes(c.codePointAt(0)), 0), part]);
    else for (const c of alone) found.push([glyph(c), nBytes(c.codePointAt(0)), NAMED[c] || glyph(c), UNSEEN.test(c)]);
  }
  return found;
}

// ---- a document: a text, its tokens, and what is known of them

function openDocument(data) {
  const doc = {...data};
  doc.bytes = new TextEncoder().encode(data.text);
  doc.pieces = data.pieces || [];
  doc.series = data.series.map(s => ({...s, values: floats(s.values)}));
  doc.bits = bitsOf(data.bits || '');
  doc.piece = words16(data.piece || '');
  doc.likely = words16(data.likely || '');
  doc.chances = raw(data.chances || '');
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
    this.signs = next.flatMap(([, n, , sign]) => Array(n).fill(sign));
    this.starts = next.flatMap(([, n]) => range(n).map(k => [k, n]));
    if (this.at >= this.spans.length) this.at = -1;
    this.color(Math.min(from, first));
  }

  color(from = 0) {
    for (let i = from; i < this.spans.length; i++) {
      const x = this.value(i);
      const [part] = this.starts[i];
      const name = shadeClass(x, this.limit) + (part ? ' sn-bar' : this.signs[i] ? ' sn-sign' : '');
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
    const p = doc.chances[token * n + k] / 255;
    const bar = make('span', {class: 'sn-chance'});
    bar.style.width = `${100 * p}%`;
    return make('li', {}, make('code', {}, doc.pieces[doc.likely[token * n + k]]), make('span', {}, percent(p)), bar);
  });
  return [make('p', {class: 'sn-faint'}, 'likeliest next'), make('ol', {class: 'sn-next'}, rows)]
    .reduce((box, part) => { box.append(part); return box; }, make('div'));
}

// Texts with one inspector beside them. Each group is one text; its heat maps, side by side, share the cursor.
function readable(groups, {onpoint = () => {}} = {}) {
  const panel = inspector();
  const texts = groups.map(heats => {
    for (const heat of heats) {
      heat.onpoint = i => {
        groups.flat().filter(other => !heats.includes(other)).forEach(other => other.mark(-1));
        heats.filter(other => other !== heat).forEach(other => other.mark(i));
        panel.show(heats, i);
        onpoint(i, heats);
      };
    }
    const sections = heats.map(heat => make('section', {},
      heats.length > 1 ? make('h4', {}, heat.title || heat.doc.series[heat.k].name) : null, heat.node));
    const {title} = heats[0].doc;
    return make('section', {}, title ? make('h3', {}, title) : null, make('div', {class: 'sn-side'}, sections));
  });
  return {node: make('div', {class: 'sn-readable'}, make('div', {}, texts), panel.node), panel};
}

const heatsOf = (doc, limit) => doc.series.map((_, k) => new Heat(doc, {k, limit, label: doc.title}));
const legends = (series, limit) => series.map(s => legend(s, limit));

// ---- controls

function field(label, input, after = null) {
  input.id ||= newId();
  return make('span', {class: 'sn-field'}, make('label', {for: input.id}, label), input, after);
}

function number(value, low, high, onchange) {
  const input = make('input', {type: 'number', min: low, max: high, step: 1, value});
  let last = value;
  const take = force => {
    const n = clip(Math.round(Number(input.value) || 0), low, high);
    input.value = n;
    if (!force && n === last) return;
    last = n;
    onchange(n);
  };
  input.addEventListener('change', () => take(false));
  input.addEventListener('keydown', e => { if (e.key === 'Enter') take(true); });
  return input;
}

function slider({value, low, high, step, words, oninput}) {
  const input = make('input', {type: 'range', min: low, max: high, step, value});
  const shown = make('output', {});
  const say = () => { shown.textContent = words(Number(input.value)); input.setAttribute('aria-valuetext', shown.textContent); };
  input.addEventListener('input', () => { say(); oninput(Number(input.value)); });
  say();
  return {input, shown, say};
}

const button = (words, onclick) => make('button', {type: 'button', onclick}, words);

// ---- charts: small drawings with axes, one unit of width is one pixel at full size

function chart({width = 640, height = 220, x, y, xName, yName, label, left = 46, bottom = 38, counts = false}) {
  const svg = draw('svg', {viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label, class: 'sn-chart'});
  const at = v => left + (v - x[0]) / (x[1] - x[0]) * (width - left - 12);
  const up = v => height - bottom - (v - y[0]) / (y[1] - y[0]) * (height - bottom - 12);
  const text = (words, more) => { const node = draw('text', more); node.textContent = words; svg.append(node); };
  const line = (x1, y1, x2, y2, name) => svg.append(draw('line', {x1, y1, x2, y2, class: name}));
  for (const [v, words] of ticks(x)) text(words, {x: at(v), y: height - bottom + 15, 'text-anchor': 'middle'});
  for (const [v, words] of ticks(y, 4)) {
    line(left, up(v), width - 12, up(v), 'sn-grid');
    text(counts ? words.replace('−', '') : words, {x: left - 6, y: up(v) + 4, 'text-anchor': 'end'});
  }
  line(left, height - bottom, width - 12, height - bottom, 'sn-axis');
  text(xName, {x: (left + width - 12) / 2, y: height - 5, 'text-anchor': 'middle'});
  text(yName, {x: 12, y: (height - bottom) / 2, 'text-anchor': 'middle', transform: `rotate(-90 12 ${(height - bottom) / 2})`});
  return {svg, at, up, line, text, width, height, left, bottom};
}

// Round numbers within a range: [value, words] each.
function ticks([low, high], about = 7) {
  const size = (high - low) / about;
  const power = 10 ** Math.floor(Math.log10(size));
  const step = [1, 2, 5, 10].map(k => k * power).find(s => s >= size);
  const first = Math.ceil(low / step - 1e-9);
  const n = Math.floor(high / step + 1e-9) - first + 1;
  return range(n).map(k => {
    const v = (first + k) * step;
    return [v, Math.abs(v) < 1e-12 ? '0' : String(+v.toPrecision(6)).replace('-', '−')];
  });
}

// ---- view: texts

function textsView(view) {
  const docs = view.docs.map(openDocument);
  const groups = docs.map(doc => heatsOf(doc, view.limit));
  return make('div', {}, readable(groups).node, docs.length ? legends(docs[0].series, view.limit) : null);
}

// ---- view: a unit's strongest places in a corpus

function windowsView(view) {
  const half = (name, places) => {
    const docs = places.map(openDocument);
    return [make('h3', {}, name), docs];
  };
  const sides = [half('Most positive', view.positive), half('Most negative', view.negative)];
  const groups = sides.map(([, docs]) => docs.map(doc => heatsOf(doc, view.limit)));
  const shown = readable(groups.flat());
  const [texts] = shown.node.children;
  const sections = [...texts.children];
  texts.className = 'sn-halves';
  texts.replaceChildren(...sides.map(([heading, docs], k) => make('div', {}, heading,
    sections.splice(0, docs.length), docs.length ? null : make('p', {class: 'sn-faint'}, 'none'))));
  const first = [...view.positive, ...view.negative][0];
  return make('div', {}, make('p', {}, view.about), shown.node, first ? legends(first.series, view.limit) : null);
}

// ---- view: units, found by a property

function neuronsView(view, ask, app) {
  const opened = c => ({...c, values: Float32Array.from(new Int16Array(raw(c.values).buffer), n => n / 32767 * c.most)});
  const criteria = view.criteria.map(opened);
  const table = make('table', {class: 'sn-table'});
  const said = make('p', {class: 'sn-faint', 'aria-live': 'polite'});
  const choice = make('select', {}, criteria.map((c, k) => make('option', {value: k}, c.name)));
  const order = c => range(c.values.length).sort((a, b) => Math.abs(c.values[b]) - Math.abs(c.values[a]));
  const bar = (v, most) => {
    const node = make('span', {class: 'sn-bar-box'}, make('span', {class: v < 0 ? 'sn-minus' : 'sn-plus'}));
    const length = 50 * Math.min(1, Math.abs(v) / (most || 1));
    node.firstChild.style.width = `${length}%`;
    node.firstChild.style.marginLeft = v < 0 ? `${50 - length}%` : '50%';
    return node;
  };
  const unitCell = unit => app ? button(String(unit), () => app.choose(unit)) : String(unit);
  const head = (...cells) => make('thead', {}, make('tr', {}, cells.map(cell => make('th', {scope: 'col'}, cell))));
  function list() {
    const c = criteria[choice.value];
    const units = order(c).slice(0, 15);
    const most = Math.abs(c.values[units[0]]);
    said.textContent = c.about;
    table.replaceChildren(make('caption', {}, `The 15 units with the largest values: ${c.name}`),
      head('rank', 'unit', 'value', ''), make('tbody', {}, units.map((unit, k) =>
        make('tr', {'data-unit': unit}, make('td', {}, k + 1), make('td', {}, unitCell(unit)),
          make('td', {}, signed(c.values[unit])), make('td', {}, bar(c.values[unit], most))))));
  }
  function profile(unit) {
    said.textContent = `What unit ${unit} follows, and its rank among ${view.units} units.`;
    table.replaceChildren(make('caption', {}, `Unit ${unit}`), head('property', 'rank', 'value', ''),
      make('tbody', {}, criteria.map(c => make('tr', {}, make('td', {}, c.name),
        make('td', {}, order(c).indexOf(unit) + 1), make('td', {}, signed(c.values[unit])),
        make('td', {}, bar(c.values[unit], Math.max(...c.values.map(Math.abs))))))));
    if (app) table.append(make('tfoot', {}, make('tr', {}, make('td', {colspan: 4},
      button(`look at unit ${unit}`, () => app.choose(unit))))));
  }
  choice.addEventListener('change', list);
  const byNumber = number(view.unit, 0, view.units - 1, profile);
  const controls = make('div', {class: 'sn-controls'}, field('units by', choice), field('or one unit', byNumber));
  if (ask) {
    const pattern = make('input', {type: 'text', placeholder: 'a regular expression, such as [0-9]+'});
    pattern.addEventListener('change', () => ask('pattern', {pattern: pattern.value}, reply => {
      criteria.push(opened(reply.criterion));
      choice.append(make('option', {value: criteria.length - 1}, reply.criterion.name));
      choice.value = criteria.length - 1;
      list();
    }));
    controls.append(field('or what matches', pattern));
  }
  list();
  return make('div', {}, make('p', {}, view.about), controls, said, table);
}

// ---- view: labels, a histogram with a threshold

function labelsView(view) {
  const values = floats(view.values), labels = raw(view.labels);
  const [low, high] = [Math.min(-view.limit, ...values), Math.max(view.limit, ...values)];
  const n = 36, width = (high - low) / n;
  const counts = [0, 1].map(label => {
    const bins = new Array(n).fill(0);
    values.forEach((v, i) => { if (labels[i] === label) bins[Math.min(n - 1, Math.floor((v - low) / width))]++; });
    return bins;
  });
  const most = Math.max(...counts.flat());
  const [negative, positive] = view.names;
  const c = chart({x: [low, high], y: [-most, most], height: 280, counts: true, xName: `${view.scale.name}, in standard deviations`,
    yName: 'texts', label: `Histogram of ${values.length} texts: ${positive} upwards, ${negative} downwards`});
  counts.forEach((bins, label) => bins.forEach((count, k) => {
    if (!count) return;
    const top = c.up(label ? count : 0);
    c.svg.append(draw('rect', {x: c.at(low + k * width) + .5, width: c.at(width) - c.at(0) - 1, y: top,
      height: c.up(label ? 0 : -count) - top, class: label ? 'sn-positive' : 'sn-negative'}));
  }));
  c.text(`${positive} ↑`, {x: c.left + 6, y: 22, class: 'sn-strong'});
  c.text(`${negative} ↓`, {x: c.left + 6, y: c.height - c.bottom - 8, class: 'sn-strong'});
  const mark = draw('line', {y1: 8, y2: c.height - c.bottom, class: 'sn-threshold'});
  c.svg.append(mark);
  const result = make('p', {class: 'sn-result', 'aria-live': 'polite'});
  const right = t => values.reduce((k, v, i) => k + ((v > t) === (labels[i] === 1)), 0);
  const show = t => {
    mark.setAttribute('x1', c.at(t));
    mark.setAttribute('x2', c.at(t));
    const found = values.filter((v, i) => v > t && labels[i] === 1).length;
    const wrong = values.filter((v, i) => v > t && labels[i] !== 1).length;
    result.textContent = `${right(t)} of ${values.length} right: accuracy ${(100 * right(t) / values.length).toFixed(1)} %. ` +
      `Called ${positive}: ${found} rightly and ${wrong} wrongly.`;
  };
  const s = slider({value: view.threshold, low: low.toFixed(2), high: high.toFixed(2), step: .01,
    words: v => signed(v), oninput: show});
  s.input.classList.add('sn-wide');
  const set = t => { s.input.value = t; s.say(); show(Number(s.input.value)); };
  const sorted = [...values].sort((a, b) => a - b);
  const best = () => set(sorted.slice(1).map((v, i) => (v + sorted[i]) / 2)
    .reduce((a, b) => right(b) > right(a) ? b : a, view.threshold));
  show(view.threshold);
  return make('div', {}, make('p', {}, view.about), c.svg, make('div', {class: 'sn-controls'},
    field('threshold', s.input, s.shown), button("the classifier's", () => set(view.threshold)),
    button('best on these texts', best)), result);
}

// ---- view: gates of one unit over time

function gatesView(view) {
  const doc = openDocument(view.doc);
  const lines = view.gates.map(gate => ({...gate, values: floats(gate.values)}));
  const n = lines[0].values.length;
  const rows = lines.map(gate => {
    const row = chart({width: 760, height: 92, x: [0, Math.max(1, n - 1)], y: gate.range, xName: '', yName: '', bottom: 12,
      label: `${gate.name}: ${gate.about}; from ${signed(Math.min(...gate.values))} to ${signed(Math.max(...gate.values))}`});
    row.svg.querySelectorAll('text[text-anchor=middle]').forEach(node => node.remove());
    const points = [...gate.values].map((v, t) => `${row.at(t).toFixed(1)},${row.up(v).toFixed(1)}`).join(' ');
    row.svg.append(draw('polyline', {points, class: 'sn-line'}));
    const cursor = draw('line', {y1: 6, y2: row.height - row.bottom, x1: -9, x2: -9, class: 'sn-threshold'});
    row.svg.append(cursor);
    const value = make('output', {});
    row.svg.addEventListener('pointermove', e => {
      const box = row.svg.getBoundingClientRect();
      const x = (e.clientX - box.left) / box.width * row.width;
      point(clip(Math.round((x - row.left) / (row.width - row.left - 12) * (n - 1)), 0, n - 1));
    });
    return {gate, row, cursor, value, node: make('div', {class: 'sn-gate'},
      make('div', {}, make('strong', {}, gate.name), make('span', {class: 'sn-faint'}, gate.about), value), row.svg)};
  });
  const heat = heatsOf(doc, view.limit);
  function point(token, fromText = false) {
    for (const {gate, row, cursor, value} of rows) {
      cursor.setAttribute('x1', row.at(token));
      cursor.setAttribute('x2', row.at(token));
      value.textContent = `${signed(gate.values[token], 3)} at ${doc.pieces[doc.piece[token]]}`;
    }
    const i = doc.tokenOf.indexOf(token);
    if (!fromText && i >= 0) { heat[0].mark(i); shown.panel.show(heat, i); }
  }
  const shown = readable([heat], {onpoint: i => point(Math.max(0, doc.tokenOf[i]), true)});
  return make('div', {}, make('p', {}, view.about), shown.node, make('div', {class: 'sn-gates'}, rows.map(r => r.node)),
    legends(doc.series, view.limit));
}

// ---- view: two units or two checkpoints on the same text

function compareView(view, ask, app) {
  const docs = view.docs.map(openDocument);
  const heats = docs.flatMap(doc => heatsOf(doc, view.limit));
  heats.forEach((heat, k) => { heat.title = heat.short = view.names[k]; heat.doc.title = ''; });
  const [a, b] = heats;
  const apart = new Heat(a.doc, {limit: view.limit, label: 'difference', value: i => {
    const pair = [a.value(i), b.value(i)];
    return pair.includes(undefined) ? undefined : pair[0] - pair[1];
  }});
  apart.title = apart.short = 'first minus second';
  const hidden = make('input', {type: 'checkbox'});
  const shown = readable([[a, b, apart]]);
  const third = apart.node.parentElement;
  third.hidden = true;
  hidden.addEventListener('change', () => { third.hidden = !hidden.checked; });
  const controls = make('div', {class: 'sn-controls'}, field('show the difference', hidden));
  if (app && view.unit !== undefined) {
    controls.prepend(field('second unit', number(view.unit, 0, app.units - 1, unit => app.again('compare', {other: unit}))));
  }
  return make('div', {}, make('p', {}, view.about), controls, shown.node, legends([a, b].map(h => h.doc.series[h.k]), view.limit));
}

// ---- view: the dial, texts written with the unit held

function dialView(view, ask) {
  const entries = new Map(view.entries.map(entry => [entry.dial, entry]));
  const stage = make('div', {}), plot = make('div', {}), status = make('p', {class: 'sn-faint', 'aria-live': 'polite'});
  const free = make('input', {type: 'checkbox'});
  const dialWords = v => v === null ? 'not held' : `held at ${signed(v, 1)} standard deviations`;
  let dial = 0, busy = false;
  const s = slider({value: 0, low: -3, high: 3, step: ask ? .5 : 1, words: v => dialWords(v), oninput: v => {
    free.checked = false;
    turn(v);
  }});
  free.addEventListener('change', () => turn(free.checked ? null : Number(s.input.value)));
  const prompt = make('input', {type: 'text', value: view.prompt, size: 28});
  const seed = make('input', {type: 'number', min: 0, step: 1, value: view.seed});
  const score = entry => entry.scores.length ? mean(entry.scores) : null;

  function show() {
    const entry = entries.get(dial);
    if (!entry) { status.textContent = 'writing …'; return; }
    const docs = entry.docs.map(openDocument);
    docs.forEach((doc, k) => {
      doc.title = docs.length > 1 ? `Sample ${k + 1}` : '';
      if (entry.scores.length) doc.title += `${doc.title && ', '}${view.score} ${percent(entry.scores[k])}`;
    });
    stage.replaceChildren(readable(docs.map(doc => heatsOf(doc, view.limit))).node);
    status.textContent = `${dialWords(dial)}${score(entry) === null ? '' : `; ${view.score} ${percent(score(entry))}` +
      (entry.scores.length > 1 ? ` on average of ${entry.scores.length} texts` : '')}`;
    curve();
  }

  function curve() {
    const known = [...entries.values()].filter(e => e.dial !== null && e.scores.length).sort((a, b) => a.dial - b.dial);
    if (!known.length) return;
    const words = known.map(e => `${signed(e.dial, 1)}: ${percent(score(e))}`).join(', ');
    const c = chart({height: 190, x: [-3.2, 3.2], y: [0, 1], xName: 'the unit is held at (standard deviations)',
      yName: view.score, label: `${view.score} against the dial. ${words}`});
    const off = entries.get(null);
    if (off && off.scores.length) {
      c.line(c.left, c.up(score(off)), c.width - 12, c.up(score(off)), 'sn-level');
      c.text('not held', {x: c.left + 6, y: c.up(score(off)) - 5});
    }
    c.svg.append(draw('polyline', {points: known.map(e => `${c.at(e.dial)},${c.up(score(e))}`).join(' '), class: 'sn-line'}));
    for (const e of known) {
      e.scores.forEach(p => c.svg.append(draw('circle', {cx: c.at(e.dial), cy: c.up(p), r: 2.5, class: 'sn-dot'})));
      c.svg.append(draw('circle', {cx: c.at(e.dial), cy: c.up(score(e)), r: e.dial === dial ? 7 : 4.5,
        class: e.dial < 0 ? 'sn-negative' : e.dial > 0 ? 'sn-positive' : 'sn-zero'}));
    }
    plot.replaceChildren(c.svg);
  }

  function turn(value) { dial = value; show(); if (!entries.has(dial)) write(); }

  const request = at => ({dial: at, unit: view.scale.unit, prompt: wellFormed(prompt.value), samples: view.samples,
    seed: Math.max(0, Math.round(Number(seed.value)) || 0)});

  // One request at a time; when it is answered, the dial may have moved on.
  const write = later(() => {
    if (!ask || busy || entries.has(dial)) return;
    busy = true;
    const wanted = request(dial);
    ask('write', wanted, reply => {
      busy = false;
      if (wanted.prompt !== wellFormed(prompt.value) || wanted.seed !== request(dial).seed) return write();
      entries.set(reply.entry.dial, reply.entry);
      show();
      if (!entries.has(dial)) write();
    }, () => { busy = false; });
  }, 60);
  const anew = () => { entries.clear(); plot.replaceChildren(); stage.replaceChildren(); turn(dial); };
  function sweep() {
    const next = [-3, -2, -1, 0, 1, 2, 3, null].find(v => !entries.has(v));
    if (next === undefined) { show(); return; }
    const wanted = request(next);
    ask('write', wanted, reply => {
      if (wanted.prompt !== wellFormed(prompt.value) || wanted.seed !== request(next).seed) return;
      entries.set(reply.entry.dial, reply.entry);
      curve();
      sweep();
    });
  }
  const controls = make('div', {class: 'sn-controls'}, field('the unit is', s.input, s.shown), field('let it run free', free));
  if (ask) {
    prompt.addEventListener('change', anew);
    seed.addEventListener('change', anew);
    controls.append(field('the text begins', prompt), field('seed', seed),
      button('write anew', () => { seed.value = Number(seed.value) + 1; anew(); }), button('whole curve', sweep));
  } else controls.append(make('span', {}, `the text begins “${view.prompt}”, seed ${view.seed}`));
  turn(0);
  return make('div', {}, make('p', {}, view.about), controls, status, stage, legends([view.scale], view.limit), plot);
}

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

// ---- the live explorer

// Ask the kernel: one message there, one back; `more` may follow as another question.
function connect(model) {
  const waiting = new Map();
  let next = 0;
  model.on('msg:custom', message => {
    const asked = waiting.get(message.id);
    if (!asked) return;
    waiting.delete(message.id);
    if (message.error) { asked.failed(message.error); showError(asked.root, message.error); }
    else { showError(asked.root, ''); asked.answered(message); }
  });
  return root => (kind, what, answered, failed = () => {}) => {
    waiting.set(next, {answered, failed, root});
    model.send({...what, kind, id: next++});
  };
}

function showError(root, words) {
  const place = root.querySelector('.sn-error');
  if (place) place.textContent = words;
}

const TABS = [['text', 'Text'], ['dial', 'Dial'], ['neurons', 'Units'], ['windows', 'Windows'], ['labels', 'Labels'],
  ['gates', 'Gates'], ['compare', 'Side by side']];

function explorerView(view, ask) {
  const app = {unit: view.scale.unit, units: view.units, choose, again};
  const name = make('span', {class: 'sn-name'}, view.scale.name);
  const unit = number(app.unit, 0, app.units - 1, choose);
  const typing = typingPanel(view, ask, app);
  const panels = new Map([['text', typing.node]]);
  const stale = new Set(TABS.map(([key]) => key).filter(key => key !== 'text'));
  const prefix = newId();
  const tabs = TABS.map(([key, words]) => make('button', {type: 'button', role: 'tab', id: `${prefix}-${key}`,
    'aria-controls': `${prefix}-${key}-panel`, 'data-tab': key, onclick: () => open(key)}, words));
  const boxes = TABS.map(([key]) => make('div', {role: 'tabpanel', id: `${prefix}-${key}-panel`, class: 'sn-panel',
    'aria-labelledby': `${prefix}-${key}`}, panels.get(key) || make('p', {class: 'sn-faint'}, 'The kernel is at work …')));
  const list = make('div', {role: 'tablist', 'aria-label': 'views', class: 'sn-tabs'}, tabs);
  list.addEventListener('keydown', e => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[e.key];
    if (!step) return;
    const at = (tabs.indexOf(e.target) + step + tabs.length) % tabs.length;
    tabs[at].focus();
    open(TABS[at][0]);
  });

  function open(key) {
    TABS.forEach(([other], k) => {
      const chosen = other === key;
      tabs[k].setAttribute('aria-selected', chosen);
      tabs[k].tabIndex = chosen ? 0 : -1;
      boxes[k].hidden = !chosen;
      if (chosen && stale.has(key)) fetchView(key, k, {});
    });
  }

  function fetchView(key, k, more) {
    stale.delete(key);
    ask(key, {unit: app.unit, text: typing.text(), ...more}, reply => {
      boxes[k].replaceChildren(VIEWS[key](reply.view, ask, app));
    }, () => stale.add(key));
  }

  function again(key, more) { fetchView(key, TABS.findIndex(([other]) => other === key), more); }

  function choose(chosen) {
    app.unit = chosen;
    unit.value = chosen;
    TABS.forEach(([key]) => { if (!['text', 'neurons'].includes(key)) stale.add(key); });
    typing.read(true);
    const open_ = tabs.findIndex(tab => tab.getAttribute('aria-selected') === 'true');
    const key = TABS[open_][0];
    if (stale.has(key)) fetchView(key, open_, {});
    else if (key === 'neurons') open('text');
  }

  typing.onscale = scale => { name.textContent = scale.name; };
  typing.onedit = () => { stale.add('gates'); stale.add('compare'); };
  open('text');
  return make('div', {}, make('div', {class: 'sn-head'}, make('strong', {}, view.title),
    make('span', {class: 'sn-faint'}, view.model), field('unit', unit), name), list,
    make('p', {class: 'sn-error', role: 'alert'}), boxes);
}

// Type, and see it coloured: only what follows the edit is asked for, piece after piece.
function typingPanel(view, ask, app) {
  const doc = openDocument(view.doc);
  const heat = new Heat(doc, {limit: view.limit, label: 'your text'});
  const shown = readable([[heat]]);
  const input = make('textarea', {rows: 4, spellcheck: 'false', dir: 'auto'});
  input.value = doc.text;
  const status = make('p', {class: 'sn-faint'});
  const scales = make('div', {}, legends(doc.series, view.limit));
  const panel = {text: () => wellFormed(input.value), onscale() {}, onedit() {}, read};
  let busy = false, asked = doc.text, askedUnit = app.unit, since = 0, stamp = view.stamp;

  function read(force = false) {
    if (busy || (!force && asked === panel.text() && askedUnit === app.unit)) return;
    busy = true;
    asked = panel.text();
    askedUnit = app.unit;
    since = performance.now();
    ask('type', {text: asked, unit: askedUnit, stamp}, take, () => { busy = false; });
  }

  function take(reply) {
    merge(doc, reply, asked);
    stamp = reply.stamp;
    heat.paint(firstByte(doc, reply.first));
    if (reply.first === 0) scales.replaceChildren(...legends(doc.series, view.limit));
    panel.onscale(doc.series[0]);
    busy = false;
    const changed = asked !== panel.text() || askedUnit !== app.unit;
    const took = Math.round(performance.now() - since);
    const n = reply.total;
    status.textContent = reply.done ? `${n} pieces; the last change was read in ${took} ms` : `reading: ${doc.bits.length} of ${n} pieces`;
    status.dataset.took = took;
    status.dataset.done = reply.done && !changed;
    if (changed) read();
    else if (!reply.done) { busy = true; ask('more', {text: asked, unit: askedUnit, stamp}, take, () => { busy = false; }); }
  }

  input.addEventListener('input', () => { panel.onedit(); status.dataset.done = 'false'; read(); });
  panel.node = make('div', {}, field('Your text', input), status, shown.node, scales);
  return panel;
}

// A half of a surrogate pair becomes the replacement character.
const wellFormed = text => text.toWellFormed ? text.toWellFormed()
  : text.replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, '\ufffd');

const firstByte = (doc, token) => {
  const i = doc.tokenOf.findIndex(t => t >= token);
  return token === 0 || i < 0 ? token === 0 ? 0 : doc.bytes.length : i;
};

// Put what was read from token `reply.first` on into a document.
function merge(doc, reply, text) {
  const {first} = reply;
  const more = reply.facts;
  const offset = first ? doc.pieces.length : 0;
  const cut = (old, fresh, n, shift = 0) => {
    const joined = new old.constructor(n + fresh.length);
    joined.set(old.subarray(0, n));
    joined.set(shift ? fresh.map(x => x + shift) : fresh, n);
    return joined;
  };
  doc.series = more.series.map((s, k) => ({...s, values: cut(doc.series[k].values, floats(s.values), first)}));
  doc.bits = cut(doc.bits, bitsOf(more.bits), first);
  doc.pieces = [...doc.pieces.slice(0, offset), ...more.pieces];
  doc.piece = cut(doc.piece, words16(more.piece), first, offset);
  const n = reply.likely;
  doc.likely = cut(doc.likely, words16(more.likely), first * n, offset);
  doc.chances = cut(doc.chances, raw(more.chances), first * n);
  doc.text = text;
  doc.bytes = new TextEncoder().encode(text);
  doc.tokenOf = tokensOfBytes(words32(reply.spans), reply.lead, doc.bytes.length);
  compactPieces(doc);
}

// Forget names of pieces that an edited text no longer has, before their numbers run out.
function compactPieces(doc) {
  if (doc.pieces.length < 30000) return;
  const places = new Map();
  const renumber = list => list.forEach((x, i) => {
    const name = doc.pieces[x];
    if (!places.has(name)) places.set(name, places.size);
    list[i] = places.get(name);
  });
  renumber(doc.piece);
  renumber(doc.likely);
  doc.pieces = [...places.keys()];
}

const VIEWS = {texts: textsView, dial: dialView, neurons: neuronsView, windows: windowsView, labels: labelsView,
  gates: gatesView, compare: compareView, explorer: explorerView};

// Show a view in an element.
export function mount(root, view, connected = null) {
  root.classList.add('sentnb-explorer');
  root.replaceChildren(VIEWS[view.kind](view, connected && connected(root)));
  return followTheme(root);
}

// Show all views of a page: <div data-sentnb-view="ID"> and <script type="application/gzip" id="ID">.
export function mountAll() {
  followTheme(document.body);
  for (const root of document.querySelectorAll('[data-sentnb-view]:not([data-ready])')) {
    root.dataset.ready = '1';
    unpack(document.getElementById(root.dataset.sentnbView).textContent)
      .then(view => mount(root, view)).catch(error => console.warn(error));
  }
}

export default {
  render({model, el}) { return mount(el, model.get('view'), connect(model)); },
};
