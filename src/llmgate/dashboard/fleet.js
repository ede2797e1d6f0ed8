// The endpoints: a row each, kept while the endpoint lives.

import { json } from "./api.js";
import { confirmed } from "./ask.js";
import { $, make, put, sync } from "./dom.js";
import { UNKNOWN, age, gib, percent, rate, seconds, short, whole } from "./format.js";
import { createSpark, drawSpark } from "./spark.js";

const STATES = {
  up: ["good", "●", "up"],
  half_open: ["warn", "◐", "trial"],
  starting: ["idle", "○", "starting"],
  down: ["bad", "✕", "down"],
  ejected: ["bad", "⊘", "ejected"],
};
const FULL = 0.9; // of a KV cache: requests may have to wait for room soon

export const isReady = (endpoint) => endpoint.state === "up" && !endpoint.draining;

const COLUMNS = [
  ["name", ""],
  ["health", ""],
  ["load", "In flight"],
  ["ahead meter", "Tokens ahead"],
  ["kv meter", "KV cache"],
  ["waiting number", "Waiting"],
  ["requests number", "Requests/s"],
  ["output number", "Tokens/s"],
  ["ttft number", "TTFT p50, p99"],
  ["hits number", "Prefix hits"],
  ["gpu", "GPU"],
  ["action", ""],
];

export class Fleet {
  #endpoints = [];
  #failed;

  /** `failed` is told why a switch did not work, or "" as it is tried again. */
  constructor(failed) {
    this.#failed = failed;
  }

  show(snapshot, history) {
    this.#endpoints = snapshot.endpoints;
    const mostTokens = Math.max(1, ...this.#endpoints.map(tokensAhead));
    $("endpoints").classList.toggle("without-gpus", this.#endpoints.every((each) => each.gpus.length === 0));
    sync(
      $("endpoints").tBodies[0],
      this.#endpoints,
      (endpoint) => endpoint.name,
      (endpoint) => this.#createRow(endpoint),
      (row, endpoint) => updateRow(row, endpoint, mostTokens, history),
    );
    $("no-endpoints").hidden = this.#endpoints.length > 0;
  }

  #createRow(endpoint) {
    const row = make("tr");
    const cells = COLUMNS.map(([className, label], index) => {
      const cell = make(index ? "td" : "th", className);
      if (!index) cell.scope = "row";
      if (label) cell.dataset.label = label;
      return cell;
    });
    const [name, health, load, ahead, kv, , , , , , , action] = cells;
    name.append(make("div", "label", endpoint.name), make("div", "about models"), make("div", "about where"));
    health.append(make("div", "states"), make("div", "reason"));
    load.append(make("span", "big inflight"), createSpark());
    ahead.append(make("span", "tokens"), createBar("prefill", "decode"));
    kv.append(make("span", "usage"), createBar("used"));
    const button = make("button", "switch");
    button.type = "button";
    button.addEventListener("click", () => this.#toggle(endpoint.name, button));
    action.append(button);
    row.append(...cells);
    return row;
  }

  async #toggle(name, button) {
    const endpoint = this.#endpoints.find((each) => each.name === name);
    if (!endpoint || button.hasAttribute("aria-disabled")) return;
    const verb = endpoint.draining ? "undrain" : "drain";
    if (!(await confirmed(...this.#question(endpoint, verb)))) return;
    button.setAttribute("aria-disabled", "true"); // and not disabled, which would lose the focus
    this.#failed("");
    try {
      await json(`api/endpoints/${encodeURIComponent(name)}/${verb}`, { method: "POST" });
    } catch (error) {
      this.#failed(`Could not ${verb} ${name}: ${error.message}`);
    } finally {
      button.removeAttribute("aria-disabled");
    }
  }

  #question(endpoint, verb) {
    if (verb === "undrain") return [`Undrain ${endpoint.name}?`, "It gets new requests again.", "Undrain"];
    const left = endpoint.in_flight.requests;
    const going = left ? `The ${left} in flight there go on to their end.` : "Nothing is in flight there.";
    const lost = this.#orphans(endpoint);
    const warning = lost.length ? ` No other endpoint is ready for ${lost.join(", ")}: its clients will get 503.` : "";
    return [`Drain ${endpoint.name}?`, `It gets no new requests. ${going}${warning}`, "Drain"];
  }

  /** Models that nobody would serve without this endpoint. */
  #orphans(endpoint) {
    if (!isReady(endpoint)) return [];
    const others = this.#endpoints.filter((other) => other !== endpoint && isReady(other));
    return endpoint.models.filter((model) => !others.some((other) => other.models.includes(model)));
  }
}

function createBar(...parts) {
  const bar = make("div", "bar");
  bar.setAttribute("aria-hidden", "true"); // the number stands beside it
  bar.append(...parts.map((part) => make("i", part)));
  return bar;
}

const tokensAhead = ({ in_flight: load }) => load.prefill_tokens + load.decode_tokens;

function updateRow(row, endpoint, mostTokens, history) {
  const cell = (selector) => row.querySelector(selector);
  const width = (selector, part) => (cell(selector).style.width = `${100 * Math.min(part, 1)}%`);
  const { prefill_tokens: prefill, decode_tokens: decode, requests } = endpoint.in_flight;
  const { rates } = endpoint;

  put(cell(".models"), endpoint.models.join(", ") || "no model yet");
  put(cell(".where"), [endpoint.engine, endpoint.gpu].filter(Boolean).join(" · "));
  showHealth(cell(".states"), cell(".reason"), endpoint);
  put(cell(".inflight"), whole(requests));
  drawSpark(cell(".spark"), history.of(endpoint.name, "in_flight"));
  put(cell(".tokens"), short(prefill + decode)).title = `${whole(prefill)} prefill, ${whole(decode)} decode`;
  width(".prefill", prefill / mostTokens);
  width(".decode", decode / mostTokens);

  const gauges = endpoint.gauges?.fresh ? endpoint.gauges : null;
  const told = endpoint.gauges ? `read ${age(endpoint.gauges.age_seconds)} ago` : "the engine does not tell";
  const usage = gauges?.kv_usage ?? null;
  put(cell(".usage"), percent(usage)).title = told;
  width(".used", usage ?? 0);
  cell(".used").classList.toggle("full", usage > FULL);
  put(cell(".waiting"), whole(gauges?.waiting)).title = told;

  put(cell(".requests"), rate(rates.requests));
  put(cell(".output"), rate(rates.output_tokens));
  put(cell(".ttft"), rates.ttft_p50 === null ? UNKNOWN : `${seconds(rates.ttft_p50)}, ${seconds(rates.ttft_p99)}`);
  put(cell(".hits"), percent(rates.prefix_hit_ratio));
  sync(cell(".gpu"), endpoint.gpus, (gpu) => gpu.gpu, () => make("div"), showGpu);

  const button = put(cell(".switch"), endpoint.draining ? "Undrain" : "Drain");
  button.setAttribute("aria-label", `${button.textContent} ${endpoint.name}`);
}

function showHealth(states, reason, endpoint) {
  const [tone, sign, word] = STATES[endpoint.state] ?? ["idle", "?", endpoint.state];
  const chips = [[tone, `${sign} ${word}`]];
  if (endpoint.draining) chips.push(["warn", "↓ draining"]);
  sync(states, chips, ([, text]) => text, ([tone, text]) => make("span", `state ${tone}`, text), () => {});
  const left = endpoint.ejected_seconds === null ? "" : `next try in ${Math.ceil(endpoint.ejected_seconds)} s`;
  const errors = endpoint.rates.errors ? `${rate(endpoint.rates.errors)} errors/s` : "";
  put(reason, [endpoint.reason, left, errors].filter(Boolean).join(" · "));
}

function showGpu(node, gpu) {
  const sign = { ok: "", degraded: "▲ ", failed: "✕ " }[gpu.state] ?? "";
  const temperature = gpu.temperature === null ? "" : ` · ${whole(gpu.temperature)} °C`;
  put(node, `${sign}${gpu.gpu}: ${percent(gpu.utilization)}${temperature}`);
  node.className = { degraded: "warn", failed: "bad" }[gpu.state] ?? "";
  const memory = `${gib(gpu.memory_used)} of ${gib(gpu.memory_total)}`;
  const power = gpu.power === null ? "" : `, ${whole(gpu.power)} W`;
  node.title = [`${gpu.name}, ${memory}${power}`, gpu.reason].filter(Boolean).join(": ");
}
