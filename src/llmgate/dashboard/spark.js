// A line of the last two minutes.

const SVG = "http://www.w3.org/2000/svg";
const POINTS = 120;
const HEIGHT = 24;

/** An SVG that says nothing to screen readers: the number stands beside it. */
export function createSpark() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${POINTS - 1} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("spark");
  for (const name of ["area", "line"]) {
    const path = document.createElementNS(SVG, "path");
    path.classList.add(name);
    svg.append(path);
  }
  return svg;
}

/** `values`: a second apart, the newest last; null leaves a gap. The tallest fills it. */
export function drawSpark(svg, values) {
  const [area, line] = svg.children;
  const most = Math.max(...values.map((value) => value ?? 0), 1e-9);
  const first = POINTS - values.length;
  let outline = "";
  let filled = "";
  let begun = null;
  values.forEach((value, index) => {
    const at = first + index;
    if (value === null) {
      filled += begun === null ? "" : `L${at - 1} ${HEIGHT}Z`;
      begun = null;
      return;
    }
    const point = `${at} ${(HEIGHT - 1 - ((HEIGHT - 2) * value) / most).toFixed(1)}`;
    outline += `${begun === null ? "M" : "L"}${point}`;
    filled += begun === null ? `M${at} ${HEIGHT}L${point}` : `L${point}`;
    begun ??= at;
  });
  if (begun !== null) filled += `L${POINTS - 1} ${HEIGHT}Z`;
  line.setAttribute("d", outline);
  area.setAttribute("d", filled);
}
