// Scales and ticks.

const TIME_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800];

export function linear(from, to, low, high) {
  const span = to - from || 1;
  return (value) => low + ((value - from) / span) * (high - low);
}

export function logarithmic(from, to, low, high) {
  const inner = linear(Math.log(from), Math.log(to), low, high);
  return (value) => inner(Math.log(value));
}

export function timeTicks(from, to, most) {
  const step = TIME_STEPS.find((candidate) => (to - from) / candidate <= most) ?? TIME_STEPS.at(-1) * Math.ceil((to - from) / TIME_STEPS.at(-1) / most);
  // Whole hours and days are those of this place.
  const shift = -new Date(from * 1000).getTimezoneOffset() * 60;
  const ticks = [];
  for (let at = Math.ceil((from + shift) / step) * step - shift; at <= to; at += step) ticks.push(at);
  return ticks;
}

export function timeText(at, span) {
  const moment = new Date(at * 1000);
  const two = (value) => String(value).padStart(2, "0");
  const clock = `${two(moment.getHours())}:${two(moment.getMinutes())}`;
  if (span < 600) return `${clock}:${two(moment.getSeconds())}`;
  return span < 86400 * 2 ? clock : `${moment.getDate()}/${moment.getMonth() + 1} ${clock}`;
}

export function linearTicks(from, to, most) {
  const raw = (to - from) / most || 1;
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * size).find((candidate) => candidate >= raw);
  const ticks = [];
  for (let value = Math.ceil(from / step) * step; value <= to + step * 1e-9; value += step) ticks.push(Math.abs(value) < step * 1e-9 ? 0 : value);
  return ticks;
}

export function logarithmicTicks(from, to, most) {
  for (const factors of [[1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
    const ticks = [];
    for (let power = Math.floor(Math.log10(from)); power <= Math.ceil(Math.log10(to)); power += 1) {
      for (const factor of factors) {
        const value = factor * 10 ** power;
        if (value >= from && value <= to) ticks.push(Number(value.toPrecision(3)));
      }
    }
    if (ticks.length <= most) return ticks;
  }
  return [from, to];
}
