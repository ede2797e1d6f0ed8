// The clockwork of the fleet page: one stream of snapshots, and what is shown of each.

import { Unauthorized, hasToken, lines, request } from "./api.js";
import { askForToken } from "./ask.js";
import { refreshDecisions } from "./decisions.js";
import { $ } from "./dom.js";
import { Fleet } from "./fleet.js";
import { History } from "./history.js";
import { createPlayground, showModels } from "./playground.js";
import { refreshPolicies } from "./policies.js";
import { showSnippets } from "./snippets.js";
import { createTotals, showTotals } from "./totals.js";

const SILENCE_MS = 5000; // a line comes each second
const LONGEST_WAIT_MS = 8000;

const history = new History();
const fleet = new Fleet((text) => {
  failure = text;
  alarm(text);
});
let failure = ""; // of the operator's last action
let seenAt = null; // when the last snapshot came, ms
let refreshing = false;

function alarm(text) {
  $("alarm").textContent = text;
  $("alarm").hidden = !text;
}

function show(snapshot) {
  history.take(snapshot);
  seenAt = Date.now();
  document.body.classList.remove("stale");
  alarm(failure || (snapshot.gateway.draining ? "This gateway is stopping: it takes no new requests." : ""));
  $("metrics-link").hidden = hasToken(); // a link carries no token
  if (document.hidden) return;
  showTotals(snapshot, history);
  fleet.show(snapshot, history);
  showModels(snapshot.endpoints);
  showSnippets(snapshot);
  refresh();
}

/** What the stream does not bring. A slow answer is not asked for twice at once. */
async function refresh() {
  if (refreshing) return;
  refreshing = true;
  try {
    await Promise.all([refreshDecisions(), refreshPolicies()]);
  } catch {
    // the stream tells if the gateway is gone
  } finally {
    refreshing = false;
  }
}

async function watch() {
  const silence = new AbortController();
  let timer = 0;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(new Error("nothing came for a while")), SILENCE_MS);
  };
  try {
    heard();
    for await (const line of lines(await request("api/live", { signal: silence.signal }))) {
      heard();
      show(JSON.parse(line));
    }
    throw new Error("it ended");
  } finally {
    clearTimeout(timer);
  }
}

async function follow() {
  let wait = 0;
  for (;;) {
    const before = seenAt;
    try {
      await watch();
    } catch (error) {
      if (error instanceof Unauthorized) {
        await askForToken();
        continue;
      }
      wait = seenAt === before ? Math.min(2 * wait + 1000, LONGEST_WAIT_MS) : 1000;
      document.body.classList.add("stale");
      const seen = seenAt ? ` What you see is from ${new Date(seenAt).toLocaleTimeString()}.` : "";
      alarm(`The gateway does not answer (${error.message}).${seen} Trying again.`);
    }
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

createTotals();
createPlayground();
follow();
