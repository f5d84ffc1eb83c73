// Draws the figures in the place of the still picture, in the colours of the page, and leads from a point to its recipe.
const figures = JSON.parse(document.getElementById("figures").textContent);

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
