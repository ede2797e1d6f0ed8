// A chat by the gateway, and the way that it took. Nothing of it is kept.

import { json, lines, request } from "./api.js";
import { $, make, put, sync } from "./dom.js";
import { UNKNOWN, rate, seconds, whole } from "./format.js";
import { candidatesOf, explanationOf, outcomeOf } from "./why.js";

const LOOKED_THROUGH = 200; // decisions, for that of the chat

let running = null; // an AbortController

export function createPlayground() {
  $("chat").addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) running.abort();
    else send();
  });
}

export function showModels(endpoints) {
  const models = [...new Set(endpoints.flatMap((endpoint) => endpoint.models))].sort();
  sync($("chat-model"), models, (name) => name, (name) => new Option(name, name), () => {});
  $("chat-send").disabled = models.length === 0;
}

async function send() {
  const controller = (running = new AbortController());
  const body = {
    model: $("chat-model").value,
    messages: [{ role: "user", content: $("chat-prompt").value }],
    max_tokens: Number($("chat-tokens").value),
    stream: true,
    stream_options: { include_usage: true },
  };
  put($("chat-send"), "Stop");
  $("chat-answer").textContent = "";
  $("chat-route").replaceChildren();
  put($("chat-note"), "");
  const course = new Course();
  try {
    const response = await request("api/chat", { method: "POST", body, signal: controller.signal });
    course.head = response.headers;
    await read(response, course);
  } catch (error) {
    put($("chat-note"), controller.signal.aborted ? "Stopped." : error.message);
  } finally {
    running = null;
    put($("chat-send"), "Send");
  }
  if (course.head) await showRoute(course);
}

/** What became of one chat. Times are in milliseconds. */
class Course {
  began = performance.now();
  first = null;
  last = null;
  pieces = 0;
  usage = null;
  head = null;

  piece() {
    this.last = performance.now();
    this.first ??= this.last;
    this.pieces += 1;
  }
}

async function read(response, course) {
  const answer = $("chat-answer");
  for await (const line of lines(response)) {
    if (!line.startsWith("data:")) continue;
    const data = line.slice(5).trim();
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new Error(event.error.message);
    course.usage = event.usage ?? course.usage;
    const delta = event.choices?.[0]?.delta ?? {};
    const text = (delta.reasoning_content ?? "") + (delta.content ?? "");
    if (!text) continue;
    course.piece();
    answer.append(text);
  }
}

async function showRoute(course) {
  const tokens = course.usage?.completion_tokens ?? course.pieces;
  const decoding = (course.last - course.first) / 1000;
  const facts = [
    ["Endpoint", course.head.get("x-llmgate-endpoint") ?? UNKNOWN],
    ["Policy", course.head.get("x-llmgate-policy") ?? UNKNOWN],
    ["First token", course.first === null ? UNKNOWN : seconds((course.first - course.began) / 1000)],
    ["Tokens/s", tokens > 1 && decoding > 0 ? rate((tokens - 1) / decoding) : UNKNOWN],
    ["Total", seconds((performance.now() - course.began) / 1000)],
    ["Prompt tokens", whole(course.usage?.prompt_tokens)],
    ["Cached", whole(course.usage?.prompt_tokens_details?.cached_tokens)],
    ["Answer tokens", whole(tokens)],
  ];
  const list = make("dl", "facts");
  for (const [name, value] of facts) {
    const group = make("div");
    group.append(make("dt", "", name), make("dd", "", value));
    list.append(group);
  }
  $("chat-route").replaceChildren(list);
  const decision = await decisionOf(course.head.get("x-request-id"));
  if (decision) {
    $("chat-route").append(candidatesOf(decision), make("p", "about", outcomeOf(decision)), explanationOf(decision));
  }
}

async function decisionOf(id) {
  const decisions = await json(`api/decisions?limit=${LOOKED_THROUGH}`).catch(() => []);
  return decisions.find((decision) => decision.request_id === id);
}
