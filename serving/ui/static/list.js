// The list of rollouts: a page at a time, live.

import { ask, line, listen, takeToken } from "./connection.js";
import { byId, h, show } from "./dom.js";
import { date, duration, whole } from "./format.js";
import { phaseBadge } from "./parts.js";

const LENGTH = 25;
const query = new URLSearchParams(location.search);
let page = Math.max(1, Number.parseInt(query.get("page") ?? "1", 10) || 1);
let newest = 0;
let version = "";

takeToken();
byId("search").value = query.get("search") ?? "";
byId("phase").dataset.wanted = query.get("phase") ?? "";

function row(rollout) {
  const names = rollout.candidates.join(", ") || rollout.rollout;
  const took = rollout.started === null ? "–" : duration((rollout.ended ?? Date.now() / 1000) - rollout.started);
  return h("tr", {},
    h("td", {}, h("a", { href: `/rollouts/${encodeURIComponent(rollout.rollout)}` }, rollout.stable ? `${names} over ${rollout.stable}` : names),
      h("div", { class: "why" }, rollout.alarm ? `ALARM: ${rollout.alarm}` : rollout.reason)),
    h("td", {}, phaseBadge(rollout.phase)),
    h("td", { class: "number", "data-label": "Step" }, rollout.step === null ? "–" : `${rollout.step} of ${rollout.steps}`),
    h("td", { class: "number", "data-label": "Weight" }, `${rollout.weight} %`),
    h("td", { class: "number", "data-label": "Started" }, date(rollout.started)),
    h("td", { class: "number", "data-label": rollout.terminal ? "Took" : "For" }, took));
}

function table(rollouts) {
  return h("table", {}, h("thead", {}, h("tr", {}, ["Version and reason", "Phase", "Step", "Weight", "Started", "Time"].map((name, index) => h("th", { scope: "col", class: index > 1 ? "number" : null }, name)))),
    h("tbody", {}, rollouts.map(row)));
}

function nothing(all) {
  return all === 0
    ? h("p", { class: "notice" }, "There has been no rollout here. Start one: ", h("code", {}, "slipway rollout start"))
    : h("p", { class: "notice" }, "No rollout fits the search.");
}

async function load() {
  const mine = ++newest;
  const search = byId("search").value.trim();
  const select = byId("phase");
  const phase = select.value || select.dataset.wanted || "";
  const wanted = new URLSearchParams({ offset: (page - 1) * LENGTH, limit: LENGTH, search, phase });
  const found = await ask(`/api/rollouts?${wanted}`);
  if (mine !== newest) return;
  version = found.version;
  const pages = Math.max(1, Math.ceil(found.found / LENGTH));
  if (page > pages) { page = pages; await load(); return; }
  const known = [...select.options].map((option) => option.value);
  for (const name of found.phases) if (!known.includes(name)) select.append(h("option", { value: name }, name));
  if (select.dataset.wanted) { select.value = select.dataset.wanted; delete select.dataset.wanted; }
  show(byId("rollouts"), found.rollouts.length ? table(found.rollouts) : nothing(found.all));
  const first = (page - 1) * LENGTH + 1;
  byId("count").textContent = found.found === found.all ? `${whole(found.all)} rollouts` : `${whole(found.found)} of ${whole(found.all)} rollouts`;
  byId("pages").hidden = pages === 1;
  byId("place").textContent = `${first}–${first + found.rollouts.length - 1} of ${whole(found.found)}`;
  byId("newer").disabled = page === 1;
  byId("older").disabled = page === pages;
  const kept = new URLSearchParams();
  if (page > 1) kept.set("page", page);
  if (search) kept.set("search", search);
  if (phase) kept.set("phase", phase);
  history.replaceState(null, "", kept.size ? `?${kept}` : location.pathname);
}

const loadOrSay = () => load().catch((error) => {
  line("lost", "Not connected");
  show(byId("rollouts"), h("p", { class: "notice bad", role: "alert" }, error.message));
});

function turn(by) {
  page += by;
  loadOrSay().then(() => byId("main").scrollIntoView());
}

let typing;
byId("search").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => { page = 1; loadOrSay(); }, 150); });
byId("phase").addEventListener("change", () => { page = 1; loadOrSay(); });
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("newer").addEventListener("click", () => turn(-1));
byId("older").addEventListener("click", () => turn(1));
listen(async () => { await load(); return `/api/stream?version=${version}`; }, {
  changed: loadOrSay,
  problem: (error) => show(byId("rollouts"), h("p", { class: "notice bad", role: "alert" }, error.message)),
});
