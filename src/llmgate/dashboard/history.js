// The last two minutes, a point a second: the first snapshot of a stream brings them, each later one adds a point.

const LONGEST = 120;

const row = (source) => ({
  in_flight: source.in_flight.requests,
  requests: source.rates.requests,
  output_tokens: source.rates.output_tokens,
  ttft_p50: source.rates.ttft_p50,
});

export class History {
  #totals = {};
  #endpoints = new Map();

  take(snapshot) {
    if (snapshot.history) {
      this.#totals = snapshot.history.totals;
      this.#endpoints = new Map(Object.entries(snapshot.history.endpoints));
      return;
    }
    const waiting = { waiting: snapshot.totals.waiting ?? 0 };
    this.#totals = extended(this.#totals, { ...row(snapshot.totals), ...waiting });
    this.#endpoints = new Map(
      snapshot.endpoints.map((each) => [each.name, extended(this.#endpoints.get(each.name) ?? {}, row(each))]),
    );
  }

  ofAll(name) {
    return this.#totals[name] ?? [];
  }

  of(endpoint, name) {
    return this.#endpoints.get(endpoint)?.[name] ?? [];
  }
}

function extended(columns, point) {
  return Object.fromEntries(
    Object.entries(point).map(([name, value]) => [name, [...(columns[name] ?? []), value].slice(-LONGEST)]),
  );
}
