// The fleet page. Everything that comes from the API goes in by textContent, never as markup.
"use strict";

const POLL_MS = 1000;
const TIMEOUT_MS = 4000;
const SHOWN_DECISIONS = 25;
const SHOWN_CANDIDATES = 8;
const TOKEN_KEY = "llmgate.admin.token";

const STATES = {
  up: ["good", "●", "up"],
  half_open: ["warn", "◐", "half open"],
  starting: ["idle", "○", "starting"],
  down: ["bad", "✕", "down"],
  ejected: ["bad", "⊘", "ejected"],
};

const $ = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const precise = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 4 });

let answeredAt = null; // when the API last answered, ms
let endpoints = [];
let failure = ""; // of the operator's last action

// Small things

function make(tag, className = "", text = "") {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
}

function age(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 100) return `${Math.floor(seconds)} s`;
  if (seconds < 6000) return `${Math.floor(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h`;
}

function cost(value) {
  if (value === null) return "∞";
  return Math.abs(value) < 1e6 ? precise.format(value) : compact.format(value);
}

/** Make `parent` hold one child for each item, in order; a child is kept while its key lives, so focus stays put. */
function sync(parent, items, key, create, update) {
  const old = new Map();
  for (const child of [...parent.children]) {
    if (old.has(child.dataset.key)) child.remove();
    else old.set(child.dataset.key, child);
  }
  let at = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let child = old.get(name);
    old.delete(name);
    if (!child) {
      child = create(item);
      child.dataset.key = name;
    }
    if (child === at) at = at.nextElementSibling;
    else parent.insertBefore(child, at);
    update(child, item);
  }
  for (const child of old.values()) child.remove();
}

// The API

class Unauthorized extends Error {}

async function call(path, method = "GET") {
  const token = sessionStorage.getItem(TOKEN_KEY);
  const response = await fetch(path, {
    method,
    headers: token ? { authorization: `Bearer ${token}` } : {},
    cache: "no-store",
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  if (response.status === 401) throw new Unauthorized();
  const body = await response.json();
  if (!response.ok) throw new Error(body.error ? body.error.message : `status ${response.status}`);
  return body;
}

function askForToken() {
  const refused = sessionStorage.getItem(TOKEN_KEY) !== null;
  sessionStorage.removeItem(TOKEN_KEY);
  if (refused) $("ask-why").textContent = "That token was not accepted. Try again.";
  return new Promise((resolve) => {
    const dialog = $("ask");
    dialog.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem(TOKEN_KEY, $("token").value);
      $("token").value = "";
      dialog.close();
    };
    dialog.onclose = resolve;
    dialog.showModal();
  });
}

// Endpoints

function createRow(endpoint) {
  const row = make("tr");
  const cells = ["", "", "In flight", "Tokens ahead", "KV cache", "Waiting", "Reading age", ""].map((label) => {
    const cell = make("td");
    if (label) cell.dataset.label = label;
    return cell;
  });
  for (const index of [2, 5, 6]) cells[index].className = "number";
  cells[0].append(make("div", "name", endpoint.name), make("div", "about models"), make("div", "about where"));
  cells[1].append(make("div", "states"), make("div", "reason"));
  cells[2].append(make("span", "big requests"));
  cells[3].className = cells[4].className = "meter";
  cells[3].append(make("span", "tokens"), createBar("prefill", "decode"));
  cells[4].append(make("span", "usage"), createBar("kv"));
  cells[5].append(make("span", "waiting"));
  cells[6].append(make("span", "reading"));
  const button = make("button", "switch");
  button.onclick = () => toggleDraining(endpoint.name, button);
  cells[7].className = "action";
  cells[7].append(button);
  row.append(...cells);
  return row;
}

function createBar(...parts) {
  const bar = make("div", "bar");
  bar.setAttribute("aria-hidden", "true"); // the number stands beside it
  bar.append(...parts.map((part) => make("i", part)));
  return bar;
}

function updateRow(row, endpoint, mostTokens) {
  const put = (selector, text) => {
    const node = row.querySelector(selector);
    if (node.textContent !== text) node.textContent = text;
    return node;
  };
  const width = (selector, part) => (row.querySelector(selector).style.width = `${100 * Math.min(part, 1)}%`);
  const { prefill_tokens: prefill, decode_tokens: decode, requests } = endpoint.in_flight;

  put(".models", Object.keys(endpoint.models).join(", ") || "no model yet");
  put(".where", [endpoint.engine, endpoint.gpu, endpoint.url].filter(Boolean).join(" · "));
  put(".requests", whole.format(requests));
  put(".tokens", whole.format(prefill + decode)).title = `${whole.format(prefill)} prefill, ${whole.format(decode)} decode`;
  width(".prefill", prefill / mostTokens);
  width(".decode", decode / mostTokens);

  const [tone, sign, word] = STATES[endpoint.state] || ["idle", "?", endpoint.state];
  const chips = [[tone, `${sign} ${word}`]];
  if (endpoint.draining) chips.push(["warn", "↓ draining"]);
  sync(
    row.querySelector(".states"),
    chips,
    ([, text]) => text,
    ([tone, text]) => make("span", `state ${tone}`, text),
    () => {},
  );
  const left = endpoint.ejected_seconds === null ? "" : `next try in ${Math.ceil(endpoint.ejected_seconds)} s`;
  put(".reason", [endpoint.reason, left].filter(Boolean).join(" · "));

  const gauges = endpoint.gauges && endpoint.gauges.fresh ? endpoint.gauges : null;
  const usage = gauges && gauges.kv_usage !== null ? gauges.kv_usage : null;
  put(".usage", usage === null ? "unknown" : `${Math.round(100 * usage)} %`).classList.toggle("dim", usage === null);
  width(".kv", usage || 0);
  row.querySelector(".kv").classList.toggle("full", usage > 0.9);
  const waiting = gauges && gauges.waiting !== null ? whole.format(gauges.waiting) : null;
  put(".waiting", waiting ?? "unknown").classList.toggle("dim", waiting === null);
  const reading = endpoint.gauges ? age(endpoint.gauges.age_seconds) + (gauges ? "" : ", stale") : "none";
  put(".reading", reading).classList.toggle("dim", !gauges);

  const button = put(".switch", endpoint.draining ? "Undrain" : "Drain");
  button.setAttribute("aria-label", `${button.textContent} ${endpoint.name}`);
}

function showEndpoints() {
  const tokens = (endpoint) => endpoint.in_flight.prefill_tokens + endpoint.in_flight.decode_tokens;
  const sum = (of) => endpoints.reduce((total, endpoint) => total + of(endpoint), 0);
  const mostTokens = Math.max(1, ...endpoints.map(tokens));
  sync(
    $("endpoints").tBodies[0],
    endpoints,
    (endpoint) => endpoint.name,
    createRow,
    (row, endpoint) => updateRow(row, endpoint, mostTokens),
  );
  $("no-endpoints").hidden = endpoints.length > 0;
  $("total-ready").textContent = `${endpoints.filter(isReady).length} of ${endpoints.length}`;
  $("total-requests").textContent = whole.format(sum((endpoint) => endpoint.in_flight.requests));
  $("total-tokens").textContent = whole.format(sum(tokens));
}

function isReady(endpoint) {
  return endpoint.state === "up" && !endpoint.draining;
}

/** Models that nobody would serve if this endpoint were drained. */
function orphans(name) {
  const ready = endpoints.filter(isReady);
  const own = ready.find((endpoint) => endpoint.name === name);
  const others = ready.filter((endpoint) => endpoint !== own);
  return own ? Object.keys(own.models).filter((model) => !others.some((other) => model in other.models)) : [];
}

async function toggleDraining(name, button) {
  const verb = endpoints.find((endpoint) => endpoint.name === name)?.draining ? "undrain" : "drain";
  const lost = verb === "drain" ? orphans(name) : [];
  if (lost.length && !confirm(`${name} is the last ready endpoint of ${lost.join(", ")}. Drain it all the same?`)) return;
  button.disabled = true;
  failure = "";
  try {
    const changed = await call(`api/endpoints/${encodeURIComponent(name)}/${verb}`, "POST");
    endpoints = endpoints.map((endpoint) => (endpoint.name === name ? changed : endpoint));
    showEndpoints();
  } catch (error) {
    failure = `Could not ${verb} ${name}: ${error.message || "the token was not accepted"}`;
    alarm(failure);
  } finally {
    button.disabled = false;
  }
}

// Decisions

function createDecision(decision) {
  const row = make("tr");
  const when = make("td", "age");
  when.dataset.label = "Age";
  when.title = new Date(decision.time * 1000).toLocaleString();
  const request = make("td");
  request.append(make("div", "name", decision.model), make("div", "about mono", decision.request_id));
  const prompt = make("td", "number", whole.format(decision.prompt_tokens));
  prompt.dataset.label = "Prompt tokens";
  const costs = make("td");
  const list = make("ul", "costs");
  decision.candidates.slice(0, SHOWN_CANDIDATES).forEach((candidate, index) => {
    const item = make("li", index ? "" : "chosen");
    item.append(make("span", "", (index ? "" : "✓ ") + candidate.endpoint));
    item.append(make("span", "", cost(candidate.cost)));
    if (candidate.cached_tokens) item.append(make("span", "cached", `${whole.format(candidate.cached_tokens)} cached`));
    list.append(item);
  });
  const more = decision.candidates.length - SHOWN_CANDIDATES;
  if (more > 0) list.append(make("li", "more", `${more} more`));
  const expected = decision.explanation?.predicted;
  if (expected) {
    const times = `TTFT ${expected.ttft.toFixed(3)} s, ${(expected.tpot * 1000).toFixed(1)} ms a token expected`;
    list.append(make("li", "more", times));
  }
  if (decision.tied > 1) list.append(make("li", "more", `${decision.tied} tied`));
  costs.append(list);
  row.append(when, request, prompt, costs);
  return row;
}

function showDecisions(decisions) {
  sync(
    $("decisions").tBodies[0],
    decisions,
    (decision) => `${decision.at} ${decision.request_id}`, // clients may repeat an id; a retried request has many
    createDecision,
    (row, decision) => (row.querySelector(".age").textContent = age(decision.age_seconds)),
  );
  $("no-decisions").hidden = decisions.length > 0;
}

// The clockwork

function alarm(text) {
  $("alarm").textContent = text;
  $("alarm").hidden = !text;
}

async function poll() {
  try {
    const hold = $("hold").checked;
    const [fleet, decisions] = await Promise.all([
      call("api/endpoints"),
      hold ? null : call(`api/decisions?limit=${SHOWN_DECISIONS}`),
    ]);
    endpoints = fleet;
    showEndpoints();
    if (decisions) showDecisions(decisions);
    answeredAt = Date.now();
    document.body.classList.remove("stale");
    alarm(failure);
    $("metrics-link").hidden = sessionStorage.getItem(TOKEN_KEY) !== null; // a link carries no token
  } catch (error) {
    if (error instanceof Unauthorized) {
      await askForToken();
    } else {
      document.body.classList.add("stale");
      const seen = answeredAt ? ` What you see is from ${new Date(answeredAt).toLocaleTimeString()}.` : "";
      alarm(`The admin API does not answer (${error.message}).${seen} Trying again every second.`);
    }
  }
  setTimeout(poll, POLL_MS);
}

poll();
