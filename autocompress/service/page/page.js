// What every page does beyond its markup: it follows what happens, and shows answers without leaving the form.
"use strict";

const PAUSE_MS = 800; // between two looks at a page of which much happens
const REST = 2, LONGEST_MS = 10_000; // times as long as a look took, so that no viewer keeps a server busy

async function load(address, options = {}) {
  const answer = await fetch(address, { headers: { Accept: "text/html" }, ...options });
  return [answer, new DOMParser().parseFromString(await answer.text(), "text/html")];
}

function say(text) {
  document.getElementById("said").textContent = text;
}

// Puts what is new of a page in the place of what is old; what people chose, opened and stand on stays.
function renew(fresh) {
  const standing = document.activeElement?.id;
  for (const old of document.querySelectorAll("[data-live], [data-fresh]")) {
    const found = fresh.getElementById(old.id);
    if (!found || found.innerHTML === old.innerHTML) continue;
    const opened = [...old.querySelectorAll("details[open]")].map((each) => each.id);
    const typed = [...old.querySelectorAll("input")].map((each) => [each.id, each.value, each.checked]);
    old.replaceChildren(...found.childNodes);
    opened.forEach((id) => { const each = document.getElementById(id); if (each) each.open = true; });
    typed.forEach(([id, value, checked]) => {
      const each = id && document.getElementById(id);
      if (each && each.type === "checkbox") each.checked = checked;
      else if (each) each.value = value;
    });
  }
  if (standing && document.activeElement?.id !== standing) document.getElementById(standing)?.focus();
  const told = document.querySelector("[data-say]")?.textContent.trim();
  if (told && told !== document.getElementById("said").textContent) say(told);
}

function follow(place) {
  let stream, timer, next = 0, over = false;
  const look = async () => {
    const began = performance.now();
    try {
      const [answer, fresh] = await load(location.href);
      if (answer.redirected) return location.reload(); // signed out meanwhile
      if (!answer.ok) return;
      // The first trial brings figures, and their scripts.
      if (fresh.getElementById("detail") && !document.getElementById("detail")) return location.reload();
      renew(fresh);
      document.dispatchEvent(new Event("renewed"));
      over = !fresh.getElementById(place.id)?.dataset.live;
      if (over) stream.close();
    } catch { /* the server is away: the stream comes back when it does */ } finally {
      timer = undefined;
      next = performance.now() + Math.min(LONGEST_MS, Math.max(PAUSE_MS, REST * (performance.now() - began)));
    }
  };
  let again = false;
  const happened = () => {
    again = Boolean(timer);
    timer ??= setTimeout(async () => { await look(); if (again && !over) happened(); }, Math.max(0, next - performance.now()));
  };
  const open = () => {
    stream = new EventSource(place.dataset.live);
    for (const kind of place.dataset.kinds.split(" ")) stream.addEventListener(kind, happened);
  };
  open();
  // A page that nobody looks at holds no connection: browsers have few of them for one server.
  document.addEventListener("visibilitychange", () => {
    stream.close();
    if (!document.hidden && !over) { open(); happened(); }
  });
  addEventListener("pagehide", () => stream.close());
}

// Sends a form in the background, so that a chosen file stays chosen, and shows what comes back below it.
async function sendForm(event) {
  event.preventDefault();
  const form = event.target, button = event.submitter, place = document.getElementById("answer");
  if (form.dataset.busy) return;
  form.dataset.busy = "1";
  const body = new FormData(form, button), began = performance.now();
  button.setAttribute("aria-busy", "true");
  const tick = () => { place.textContent = `working on it: ${Math.round((performance.now() - began) / 1000)} s`; };
  say("working on it");
  tick();
  const ticking = setInterval(tick, 1000);
  try {
    const [answer, fresh] = await load(form.getAttribute("action"), { method: "POST", body });
    clearInterval(ticking);
    if (answer.redirected) return location.assign(answer.url);
    const found = fresh.getElementById("answer");
    place.replaceChildren(...(found ? found.childNodes : [`the server answered ${answer.status}`]));
    say("");
    place.focus();
    place.scrollIntoView({ block: "nearest" });
  } catch {
    clearInterval(ticking);
    place.textContent = "The server does not answer: nothing is lost, try again in a while.";
  } finally {
    button.removeAttribute("aria-busy");
    delete form.dataset.busy;
  }
}

document.querySelectorAll("[data-live]").forEach(follow);
document.querySelectorAll("form[data-answer]").forEach((form) => form.addEventListener("submit", sendForm));
document.getElementById("archive")?.addEventListener("change", () => { document.getElementById("archived").checked = true; });
document.getElementById("experiment")?.addEventListener("change", () => { document.getElementById("bundled").checked = true; });
document.addEventListener("click", (event) => {
  if (event.target.closest?.("[data-making]")) say("The file is being made and measured; its download begins by itself.");
});

// A link on another site's page comes without the cookie: from this page it is sent, so whoever is signed in goes on.
const go = document.querySelector("[data-go]")?.dataset.go;
if (go && location.search && !document.getElementById("wrong")) {
  fetch(go, { redirect: "manual", headers: { Accept: "text/html" } }).then((answer) => { if (answer.ok) location.replace(go); });
}
