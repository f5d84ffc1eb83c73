// Figures in the colours of the page that they are drawn in.
"use strict";
const dark = matchMedia("(prefers-color-scheme: dark)");

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// The dark end of the usual scale cannot be seen on a dark ground.
const DARK_SCALE = [[0, "#8f83e0"], [0.5, "#35b8a0"], [1, "#fde725"]];

function themed(layout) {
  const found = { ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" };
  found.font = { ...layout.font, color: colour("--ink") };
  found.coloraxis = { ...layout.coloraxis, ...(dark.matches ? { colorscale: DARK_SCALE } : {}) };
  for (const axis of ["xaxis", "yaxis"]) {
    found[axis] = { ...layout[axis], gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line") };
  }
  return found;
}
