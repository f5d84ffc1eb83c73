// Draws the figures in the place of the still picture, in the colours of the page, and leads from a point to its recipe.
"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
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

for (const [name, figure] of Object.entries(figures)) {
  const place = document.getElementById(name);
  place.classList.add("drawn");
  const draw = () => Plotly.react(place, figure.data, themed(figure.layout), { displaylogo: false, responsive: true });
  draw().then(() => {
    document.getElementById("still").hidden = true;
    place.on("plotly_click", (event) => {
      const target = document.getElementById("trial-" + event.points[0].customdata);
      if (target) {
        location.hash = target.id;
        target.focus();
      }
    });
  });
  dark.addEventListener("change", draw);
}
