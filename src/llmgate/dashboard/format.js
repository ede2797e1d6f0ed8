// Numbers as a person reads them. null is what nobody knows.

export const UNKNOWN = "–";

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const precise = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });

const known = (show) => (value) => (value === null || value === undefined ? UNKNOWN : show(value));

export const whole = known((value) => grouped.format(value));
export const short = known((value) => (value < 10_000 ? grouped.format(value) : compact.format(value)));
export const rate = known((value) => (value === 0 ? "0" : value < 99.95 ? value.toFixed(1) : short(value)));
export const percent = known((value) => `${Math.round(100 * value)} %`);
export const gib = known((value) => `${(value / 2 ** 30).toFixed(1)} GiB`);

export const seconds = known((value) => {
  if (value < 0.9995) return `${Math.round(1000 * value)} ms`;
  return `${value.toFixed(value < 9.995 ? 2 : 1)} s`;
});

export function age(value) {
  if (value < 10) return `${value.toFixed(1)} s`;
  if (value < 100) return `${Math.floor(value)} s`;
  if (value < 6000) return `${Math.floor(value / 60)} min`;
  if (value < 172_800) return `${Math.floor(value / 3600)} h`;
  return `${Math.floor(value / 86_400)} days`;
}

/** A policy's cost; null is one that is not finite. */
export const cost = (value) =>
  value === null ? "∞" : Math.abs(value) < 1e6 ? precise.format(value) : compact.format(value);
