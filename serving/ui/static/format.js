// Numbers, times and names as a person reads them.

export const PHASES = {
  Pending: ["warn", "◌", "waits to start"],
  Starting: ["plain", "◔", "starts"],
  SmokeTest: ["plain", "◔", "is asked before it gets traffic"],
  Progressing: ["plain", "▶", "gets traffic step by step"],
  Paused: ["warn", "‖", "is paused"],
  AwaitingGate: ["warn", "⏸", "waits for approval"],
  Promoting: ["plain", "▶", "is being made the champion"],
  Watching: ["plain", "▶", "serves, and is watched"],
  Completing: ["plain", "▶", "is being completed"],
  RollingBack: ["bad", "↩", "is being taken back"],
  Holding: ["bad", "!", "holds: nothing is healthy enough to take the traffic"],
  Promoted: ["good", "✓", "serves all traffic"],
  RolledBack: ["bad", "↩", "was taken back"],
  Completed: ["good", "✓", "is complete"],
  Failed: ["bad", "✕", "failed"],
  Unreadable: ["bad", "?", "cannot be read"],
};
export const OUTCOMES = { PASS: ["good", "✓"], FAIL: ["bad", "✕"], INCONCLUSIVE: ["plain", "?"], ERROR: ["warn", "!"] };

const count = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const clockFormat = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dateFormat = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

export const whole = (value) => (value === null || value === undefined ? "none" : count.format(value));
export const clock = (seconds) => clockFormat.format(seconds * 1000);
export const date = (seconds) => (seconds === null || seconds === undefined ? "–" : dateFormat.format(seconds * 1000));

export function number(value) {
  if (value === null || value === undefined) return "unknown";
  if (value === 0) return "0";
  return Math.abs(value) >= 1000 ? whole(value) : Number(value.toPrecision(3)).toString();
}

export function percent(rate) {
  return rate === null || rate === undefined ? "none" : `${Number((100 * rate).toPrecision(3))} %`;
}

export function duration(seconds) {
  const total = Math.max(0, Math.round(seconds));
  if (total < 60) return `${total} s`;
  if (total < 3600) return `${Math.floor(total / 60)} min ${total % 60} s`;
  if (total < 86400) return `${Math.floor(total / 3600)} h ${Math.floor((total % 3600) / 60)} min`;
  return `${Math.floor(total / 86400)} d ${Math.floor((total % 86400) / 3600)} h`;
}

// A measure: its name, how a number of it is written, and whether its axis is logarithmic.
export function measureOf(name) {
  if (name === "odds_ratio") return { name: "odds ratio", text: number, log: true, same: 1 };
  if (name === "difference") {
    return { name: "difference of rates", text: (v) => (v === null || v === undefined ? "unknown" : `${number(100 * v)} ${number(100 * v) === "1" ? "point" : "points"}`), bare: (v) => number(100 * v), log: false, same: 0 };
  }
  if (name === "hard_limit") return { name: "rate against its hard limit", text: percent, log: false, same: null };
  return { name: String(name).replaceAll("_", " "), text: number, log: false, same: name === "mean_difference" ? 0 : null };
}

export function interval(point) {
  const measure = measureOf(point.measure);
  if (point.lower === null && point.upper === null) return `${measure.name} not known yet`;
  const bare = measure.bare ?? measure.text;
  const low = point.lower === null ? "no lower bound" : bare(point.lower);
  const high = point.upper === null ? "no upper bound" : measure.text(point.upper);
  return `${measure.name} ${point.value === null ? "" : measure.text(point.value)} (${low} to ${high})`;
}
