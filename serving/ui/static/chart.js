// What every chart has: its size, the time axis, a cursor for pointer and arrow keys, and a line of words for it.

import { timeText, timeTicks, linear } from "./axes.js";
import { h, s } from "./dom.js";

let number = 0;

export class Chart {
  // `draw(svg, frame)` draws between the axes; `read(point)` says a point in words.
  constructor(label, { height, draw, read }) {
    this.label = label;
    this.height = height;
    this.draw = draw;
    this.read = read;
    this.points = [];
    this.at = null;
    this.id = `chart${number += 1}`;
    this.svg = s("svg", { focusable: "false", "aria-hidden": "true" });
    this.control = h("div", { tabindex: "0", role: "slider", "aria-label": label, "aria-orientation": "horizontal" }, this.svg);
    this.readout = h("p", { class: "readout" });
    this.element = h("figure", { class: "chart" }, this.control, this.readout);
    this.control.addEventListener("keydown", (event) => this.#key(event));
    this.control.addEventListener("pointermove", (event) => this.#point(event));
    this.control.addEventListener("pointerdown", (event) => this.#point(event));
    this.control.addEventListener("pointerleave", () => this.#move(null));
    this.control.addEventListener("blur", () => this.#move(null));
    new ResizeObserver(() => this.render()).observe(this.element);
  }

  // Points are {at, ...} in order; from and to are the ends of the time axis.
  update(points, from, to) {
    this.points = points;
    this.from = from;
    this.to = Math.max(to, from + 1);
    if (this.at !== null && this.at >= points.length) this.at = null;
    this.render();
  }

  render() {
    const width = Math.round(this.element.clientWidth);
    if (width < 50 || this.points.length === 0) return;
    const frame = { left: 52, right: width - 12, top: 20, bottom: this.height - 24, width, id: this.id };
    frame.x = linear(this.from, this.to, frame.left, frame.right);
    this.frame = frame;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${this.height}`);
    const content = s("g", {});
    const span = this.to - this.from;
    for (const tick of timeTicks(this.from, this.to, Math.max(2, Math.floor((frame.right - frame.left) / 90)))) {
      const anchor = frame.x(tick) > frame.right - 30 ? "end" : "middle";
      content.append(s("text", { x: frame.x(tick), y: this.height - 7, "text-anchor": anchor }, timeText(tick, span)));
    }
    this.draw(content, frame);
    content.append(s("line", { class: "axis", x1: frame.left, x2: frame.right, y1: frame.bottom, y2: frame.bottom }));
    const index = this.at ?? this.points.length - 1;
    if (this.at !== null) {
      const x = frame.x(this.points[index].at);
      content.append(s("line", { class: "cursor", x1: x, x2: x, y1: frame.top, y2: frame.bottom }));
    }
    this.svg.replaceChildren(content);
    const words = this.read(this.points[index]);
    if (this.readout.textContent !== words) this.readout.textContent = words;
    this.control.setAttribute("aria-valuemin", "1");
    this.control.setAttribute("aria-valuemax", String(this.points.length));
    this.control.setAttribute("aria-valuenow", String(index + 1));
    this.control.setAttribute("aria-valuetext", words);
  }

  #move(index) {
    if (index === this.at) return;
    this.at = index;
    this.render();
  }

  #key(event) {
    const last = this.points.length - 1;
    const here = this.at ?? last;
    const moves = { ArrowLeft: here - 1, ArrowDown: here - 1, ArrowRight: here + 1, ArrowUp: here + 1, Home: 0, End: last, PageUp: here + 10, PageDown: here - 10 };
    if (event.key === "Escape") this.#move(null);
    if (!(event.key in moves)) return;
    event.preventDefault();
    this.#move(Math.min(last, Math.max(0, moves[event.key])));
  }

  #point(event) {
    if (!this.frame || this.points.length === 0) return;
    const box = this.svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * this.frame.width;
    let nearest = 0;
    this.points.forEach((point, index) => {
      if (Math.abs(this.frame.x(point.at) - x) < Math.abs(this.frame.x(this.points[nearest].at) - x)) nearest = index;
    });
    this.#move(nearest);
  }
}
