// The two charts: weights over time, and a guardrail's interval against its margin.

import { linear, linearTicks, logarithmic, logarithmicTicks } from "./axes.js";
import { Chart } from "./chart.js";
import { s } from "./dom.js";
import { OUTCOMES, clock, interval, measureOf, number, whole } from "./format.js";

export function weightChart() {
  let arms = [];
  let events = [];
  let inForce = [];
  const chart = new Chart("Traffic by version over time", { height: 210, draw, read });

  function draw(svg, frame) {
    const y = linear(0, 100, frame.bottom, frame.top);
    for (const tick of [0, 25, 50, 75, 100]) {
      svg.append(s("line", { class: "grid", x1: frame.left, x2: frame.right, y1: y(tick), y2: y(tick) }));
      svg.append(s("text", { x: frame.left - 6, y: y(tick) + 4, "text-anchor": "end" }, `${tick} %`));
    }
    for (const event of events) {
      if (event.kind !== "command" && event.kind !== "alarm") continue;
      const x = frame.x(event.at);
      svg.append(s("line", { class: "event", x1: x, x2: x, y1: frame.top, y2: frame.bottom }));
      svg.append(s("text", { x, y: frame.top - 6, "text-anchor": x > frame.right - 60 ? "end" : "middle" }, event.kind === "alarm" ? "! alarm" : event.message.split(" ")[0]));
    }
    const placed = [];
    const stairs = (points, arm) => points.map((point, position) => `${position === 0 ? "M" : "H"}${frame.x(point.at)}${position === 0 ? "," : "V"}${y(point.weights[arm] ?? 0)}`).join("");
    // What was in force lies below, wide and pale: it shows where the gateway was not yet, or not, as decided.
    arms.forEach((arm, index) => {
      if (inForce.length) svg.append(s("path", { class: `inforce arm${index % 4}`, d: `${stairs(inForce, arm)}H${frame.right}` }));
    });
    arms.forEach((arm, index) => {
      const path = stairs(chart.points, arm);
      const last = y(chart.points.at(-1).weights[arm] ?? 0);
      svg.append(s("path", { class: `weight arm${index % 4}`, d: `${path}H${frame.right}` }));
      let label = last + (last < frame.top + 30 ? 16 : -6);
      while (placed.some((other) => Math.abs(other - label) < 13)) label += last < frame.top + 30 ? 14 : -14;
      placed.push(label);
      svg.append(s("text", { class: `named arm${index % 4}`, x: frame.right - 4, y: label, "text-anchor": "end" }, `${arm} ${chart.points.at(-1).weights[arm] ?? 0} %`));
    });
  }

  function read(point) {
    const shares = (weights) => arms.map((arm) => `${arm} ${weights[arm] ?? 0} %`).join(", ");
    const seen = inForce.filter((other) => other.at <= point.at).at(-1);
    const then = inForce.find((other) => other.at > point.at);
    const late = then && (!seen || shares(seen.weights) !== shares(point.weights)) && shares(then.weights) === shares(point.weights);
    const inForceWords = late ? ` · in force ${Number((then.at - point.at).toPrecision(2))} s later` : seen ? ` · in force: ${shares(seen.weights)}` : "";
    return `${clock(point.at)} · decided: ${shares(point.weights)}${inForceWords}`;
  }

  return {
    element: chart.element,
    update(points, seen, newEvents, order, from, to) {
      arms = order;
      events = newEvents;
      inForce = seen;
      chart.update(points, from, to);
    },
  };
}

// One chart a measure: an odds ratio and a difference do not share an axis.
export function intervalChart(name, measureName, higherIsBetter, edgeName) {
  const measure = measureOf(measureName);
  const chart = new Chart(`${name}: ${measure.name} over time`, { height: 220, draw, read });
  const finite = (value) => value !== null && Number.isFinite(value);

  function domain() {
    const points = chart.points;
    const usable = (value) => finite(value) && (!measure.log || value > 0);
    const scale = measure.log ? Math.log : (value) => value;
    const all = (key) => points.map((point) => point[key]).filter(usable).map(scale).sort((one, other) => one - other);
    const lows = all("lower"), highs = all("upper");
    const fixed = [points.at(-1).margin, measure.same, points.at(-1).value].filter(usable).map(scale);
    // Intervals are wide at first and at each new step: the widest run out of the picture, or the rest could not be seen.
    let low = Math.min(...fixed, lows.length ? lows[Math.floor(lows.length * 0.35)] : Infinity);
    let high = Math.max(...fixed, highs.length ? highs[Math.floor((highs.length - 1) * 0.65)] : -Infinity);
    const pad = (high - low || 1) * 0.15;
    low -= pad;
    high += pad;
    return measure.log ? [Math.exp(low), Math.exp(high)] : [low, high];
  }

  function draw(svg, frame) {
    const [low, high] = domain();
    const inner = (measure.log ? logarithmic : linear)(low, high, frame.bottom, frame.top);
    // What lies outside is clipped; far outside, a renderer would lose count.
    const y = (value) => Math.min(frame.bottom + 2000, Math.max(frame.top - 2000, inner(measure.log ? Math.max(value, 1e-9) : value)));
    const margin = chart.points.at(-1).margin;
    svg.append(s("defs", {}, s("pattern", { id: `${frame.id}h`, width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      s("line", { class: "hatch", x1: 0, x2: 0, y1: 0, y2: 7 })),
    s("clipPath", { id: `${frame.id}c` }, s("rect", { x: frame.left, width: frame.right - frame.left + 6, y: frame.top, height: frame.bottom - frame.top }))));
    const inside = s("g", { "clip-path": `url(#${frame.id}c)` });
    for (const tick of (measure.log ? logarithmicTicks : linearTicks)(low, high, 6)) {
      svg.append(s("line", { class: "grid", x1: frame.left, x2: frame.right, y1: y(tick), y2: y(tick) }));
      const text = measureName === "odds_ratio" ? number(tick) : measureName === "hard_limit" ? `${number(100 * tick)} %` : measureName === "difference" ? number(100 * tick) : number(tick);
      svg.append(s("text", { x: frame.left - 6, y: y(tick) + 4, "text-anchor": "end" }, text));
    }
    svg.append(s("text", { x: 4, y: 13 }, measureName === "difference" ? "points" : measure.name));
    if (margin !== null && higherIsBetter !== null) {
      const edge = higherIsBetter ? frame.bottom : frame.top;
      svg.append(s("rect", { fill: `url(#${frame.id}h)`, x: frame.left, width: frame.right - frame.left, y: Math.min(edge, y(margin)), height: Math.abs(y(margin) - edge) }));
    }
    svg.append(inside);
    band(inside, frame, y);
    if (measure.same !== null) svg.append(s("line", { class: "same", x1: frame.left, x2: frame.right, y1: y(measure.same), y2: y(measure.same) }));
    if (margin !== null) {
      svg.append(s("line", { class: "margin", x1: frame.left, x2: frame.right, y1: y(margin), y2: y(margin) }));
      const over = higherIsBetter ? y(margin) > frame.bottom - 18 : y(margin) > frame.top + 18;
      svg.append(s("text", { class: "marginlabel", x: frame.left + 4, y: y(margin) + (over ? -6 : 15) }, `${edgeName} ${measure.text(margin)}`));
      const room = Math.abs(y(margin) - (higherIsBetter ? frame.bottom : frame.top)) > 34;
      if (room && higherIsBetter !== null) svg.append(s("text", { x: frame.right - 6, y: higherIsBetter ? frame.bottom - 6 : frame.top + 14, "text-anchor": "end" }, "worse than tolerated"));
    }
    outcomes(svg, frame);
    const above = s("g", { "clip-path": `url(#${frame.id}c)` });
    whisker(above, frame, y);
    svg.append(above);
  }

  // A bound that nothing is known about runs out of the picture, without an edge. Looks that were judged by another
  // measure leave a gap.
  function band(svg, frame, y) {
    const runs = [];
    for (const point of chart.points) {
      if (point.gap || runs.length === 0) runs.push([]);
      runs.at(-1).push(point);
    }
    for (const run of runs) {
      const x = run.map((point) => frame.x(point.at));
      const top = run.map((point) => (finite(point.upper) ? y(point.upper) : frame.top - 2000));
      const bottom = run.map((point) => (finite(point.lower) ? y(point.lower) : frame.bottom + 2000));
      const along = x.map((at, index) => `${at},${top[index]}`);
      const back = x.map((at, index) => `${at},${bottom[index]}`).reverse();
      svg.append(s("polygon", { class: "band", points: [...along, ...back].join(" ") }));
      for (const [key, ys] of [["upper", top], ["lower", bottom], ["value", null]]) {
        let path = "", on = false;
        run.forEach((point, index) => {
          const known = finite(point[key]);
          if (known) path += `${on ? "L" : "M"}${x[index]},${ys === null ? y(point.value) : ys[index]}`;
          on = known;
        });
        if (path) svg.append(s("path", { class: key === "value" ? "value" : "edge", d: path }));
      }
    }
  }

  // Where a verdict changed; the later one is written where two would overlap.
  function outcomes(svg, frame) {
    const changes = chart.points.filter((point, index) => index > 0 && point.outcome !== chart.points[index - 1].outcome);
    let free = frame.right;
    for (const point of changes.reverse()) {
      const text = `${OUTCOMES[point.outcome]?.[1] ?? "•"} ${point.outcome}`;
      const width = text.length * 7.5;
      const x = Math.min(frame.x(point.at), frame.right - width);
      if (x + width > free || x < frame.left + 80) continue;
      svg.append(s("text", { x, y: 13 }, text));
      free = x - 8;
    }
  }

  function whisker(svg, frame, y) {
    const last = chart.points.at(-1);
    const x = frame.x(last.at);
    const top = finite(last.upper) ? y(last.upper) : frame.top;
    const bottom = finite(last.lower) ? y(last.lower) : frame.bottom;
    if (!finite(last.upper) && !finite(last.lower)) return;
    const cap = (at) => `M${x - 5},${at}H${x + 5}`;
    svg.append(s("path", { class: "whisker", d: `M${x},${top}V${bottom}${finite(last.upper) ? cap(top) : ""}${finite(last.lower) ? cap(bottom) : ""}` }));
    if (finite(last.value)) svg.append(s("circle", { class: "dot", cx: x, cy: y(last.value), r: 3.5 }));
  }

  function read(point) {
    const margin = point.margin === null ? "" : `, ${edgeName} ${measure.text(point.margin)}`;
    const counted = edgeName === "limit" ? `${whole(point.samples)} pairs of answers` : `${whole(point.samples)} samples, stable ${whole(point.stable_samples)}`;
    return `${clock(point.at)} · ${point.outcome} · ${interval(point)}${margin} · ${counted}`;
  }

  return { element: chart.element, update: (points, from, to) => chart.update(points, from, to) };
}
