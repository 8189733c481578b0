(() => { // Charts drawn by Python become interactive: keys switch layers, marks say what they are.

function moveBetween(marks) { // one stop of the tab key; arrow keys go from mark to mark
  const visible = () => marks.filter(mark => !mark.closest("[data-layer]").hasAttribute("hidden"));
  marks.forEach((mark, i) => mark.setAttribute("tabindex", i ? -1 : 0));
  const go = mark => {
    if (!mark) return;
    marks.forEach(other => other.setAttribute("tabindex", other === mark ? 0 : -1));
    mark.focus();
  };
  return event => {
    const shown = visible();
    const at = shown.indexOf(event.target.closest("[data-said]"));
    const next = {ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0,
                  End: shown.length - 1}[event.key];
    if (at < 0 || next === undefined) return;
    event.preventDefault();
    go(shown[Math.max(0, Math.min(shown.length - 1, next))]);
  };
}

function startChart(chart) {
  const plot = chart.querySelector("svg.plot");
  const readout = chart.querySelector(".readout");
  const marks = [...plot.querySelectorAll("[data-said]")];
  const say = event => {
    const mark = event.target.closest("[data-said]");
    if (!mark) return;
    plot.querySelectorAll(".at").forEach(old => old.classList.remove("at"));
    mark.classList.add("at");
    readout.textContent = mark.dataset.said;
  };
  for (const title of plot.querySelectorAll("title")) title.remove();   // the line below says it at once
  plot.addEventListener("pointerover", say);
  plot.addEventListener("focusin", say);
  plot.addEventListener("keydown", moveBetween(marks));
  for (const key of chart.querySelectorAll("[data-key]")) {
    const layer = plot.querySelector(`[data-layer="${key.dataset.key}"]`);
    const turn = () => {
      layer.toggleAttribute("hidden", !key.checked);
      layer.style.display = key.checked ? "" : "none";
    };
    key.addEventListener("change", turn);
    turn();
  }
}

function startHistory(view) {
  const data = view.querySelector("script[type='application/json']").textContent;
  const {steps, said, counts, height} = JSON.parse(data);
  const slider = view.querySelector("input[type=range]");
  const chosen = view.querySelector("select");
  const bars = [...view.querySelectorAll("rect[data-bar]")];
  const cursors = [...view.querySelectorAll("svg[data-left]")].map(addCursor);
  let timer = 0;
  const show = () => {
    const frame = Number(slider.value);
    const unit = Number(chosen.value);
    const highest = Math.max(...counts[unit].flat(2));
    const now = counts[unit][frame].flat();              // both labels, one after the other, as the bars are
    bars.forEach((bar, i) => {
      const size = height * now[i] / highest;
      bar.setAttribute("y", Number(bar.dataset.foot) - size);
      bar.setAttribute("height", size);
    });
    view.querySelector("output").textContent = steps[frame].toLocaleString("en");
    slider.setAttribute("aria-valuetext", `step ${steps[frame]}`);
    view.querySelector(".said").textContent = said[unit][frame];
    for (const place of cursors) place(steps[frame]);
  };
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    view.querySelector("button").textContent = "Play";
  };
  view.querySelector("button").addEventListener("click", event => {
    if (timer) return stop();
    if (Number(slider.value) === steps.length - 1) slider.value = 0;
    event.target.textContent = "Stop";
    timer = setInterval(() => {
      slider.value = Number(slider.value) + 1;
      show();
      if (Number(slider.value) === steps.length - 1) stop();
    }, 350);
  });
  slider.addEventListener("input", () => {
    stop();
    show();
  });
  chosen.addEventListener("change", show);
  show();
}

function addCursor(svg) { // a line across a chart at the slider's step
  const {left, right, first, last, top, bottom} = svg.dataset;
  const line = document.createElementNS(svg.namespaceURI, "line");
  line.setAttribute("class", "cursor");
  line.setAttribute("y1", top);
  line.setAttribute("y2", bottom);
  svg.append(line);
  return step => {
    const share = (step - first) / (last - first);
    const x = Number(left) + share * (right - left);
    line.setAttribute("x1", x);
    line.setAttribute("x2", x);
  };
}

for (const [selector, start] of [[".sn-chart", startChart], [".sn-history", startHistory]]) {
  for (const figure of document.querySelectorAll(`${selector}:not([data-ready])`)) {
    figure.dataset.ready = "";
    try { start(figure); } catch (error) { console.warn(error); }
  }
}
})();
