// The whole gateway in a line of tiles.

import { $, put } from "./dom.js";
import { age, percent, rate, seconds, short, whole } from "./format.js";
import { createSpark, drawSpark } from "./spark.js";

const SPARKS = { flight: "in_flight", waiting: "waiting", requests: "requests", output: "output_tokens", ttft: "ttft_p50" };

export function createTotals() {
  for (const tile of Object.keys(SPARKS)) $(`tile-${tile}`).append(createSpark());
}

export function showTotals({ gateway, totals }, history) {
  const { rates } = totals;
  put($("about"), `${gateway.version} · ${gateway.policy} · up ${age(gateway.uptime_seconds)}`);
  const ready = `${totals.ready} of ${totals.endpoints}`;
  put($("total-ready"), ready); // announced when it changes: it is a live region
  $("tile-ready").classList.toggle("alert", totals.ready < totals.endpoints);
  put($("total-flight"), whole(totals.in_flight.requests));
  put($("total-waiting"), whole(totals.waiting));
  put($("total-requests"), rate(rates.requests));
  put($("total-output"), rate(rates.output_tokens));
  put($("total-ttft"), seconds(rates.ttft_p50));
  put($("total-ttft-p99"), `p99 ${seconds(rates.ttft_p99)}`);
  put($("total-hits"), percent(rates.prefix_hit_ratio));
  const failing = rates.errors + totals.rejected;
  put($("total-failed"), rate(failing));
  $("tile-failed").classList.toggle("alert", failing > 0);
  put($("total-ahead"), `${short(totals.in_flight.prefill_tokens + totals.in_flight.decode_tokens)} tokens ahead`);
  put($("total-input"), `${rate(rates.prompt_tokens)} of prompts`);
  for (const [tile, name] of Object.entries(SPARKS)) {
    drawSpark($(`tile-${tile}`).querySelector(".spark"), history.ofAll(name));
  }
}
