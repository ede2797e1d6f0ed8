// The admin API, and the token that it may want.

const TOKEN_KEY = "llmgate.admin.token"; // kept as long as the tab is

export class Unauthorized extends Error {}

export const hasToken = () => sessionStorage.getItem(TOKEN_KEY) !== null;

export function setToken(token) {
  if (token === null) sessionStorage.removeItem(TOKEN_KEY);
  else sessionStorage.setItem(TOKEN_KEY, token);
}

/** An answer of status 2xx. Throws Unauthorized, or an Error with the gateway's own words. */
export async function request(path, { method = "GET", body, signal } = {}) {
  const headers = {};
  if (hasToken()) headers.authorization = `Bearer ${sessionStorage.getItem(TOKEN_KEY)}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const text = body === undefined ? undefined : JSON.stringify(body);
  const response = await fetch(path, { method, headers, body: text, cache: "no-store", signal });
  if (response.status === 401) throw new Unauthorized("the token was not accepted");
  if (!response.ok) throw new Refused(response.status, await message(response));
  return response;
}

export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function message(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `status ${response.status}`;
  }
}

export async function json(path, options = {}) {
  const response = await request(path, { signal: AbortSignal.timeout(5000), ...options });
  return response.json();
}

/** The lines of an answer, as they come. */
export async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const whole = (rest + value).split("\n");
      rest = whole.pop();
      yield* whole.filter((line) => line.trim());
    }
  } finally {
    reader.cancel().catch(() => {}); // whoever stops listening need not know how it ended
  }
}
