// Figures in the colours of the page that they are drawn in.
"use strict";
const dark = matchMedia("(prefers-color-scheme: dark)");

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// The ends of the usual scale cannot be seen on the one ground or the other.
const SCALES = { dark: [[0, "#8f83e0"], [0.5, "#35b8a0"], [1, "#fde725"]], light: [[0, "#440154"], [0.5, "#21918c"], [1, "#c2a000"]] };

function themed(layout) {
  const found = { ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" };
  found.font = { ...layout.font, color: colour("--ink") };
  found.coloraxis = { ...layout.coloraxis, colorscale: SCALES[dark.matches ? "dark" : "light"] };
  for (const axis of ["xaxis", "yaxis"]) {
    found[axis] = { ...layout[axis], gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line") };
  }
  return found;
}
